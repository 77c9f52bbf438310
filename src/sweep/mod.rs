//! Searches over configurations: which trials there are, which of them go on, which is best.
//!
//! A [`Sweep`] is read from JSON. It names a configuration, the keys to vary, each with a
//! [`Distribution`], and a [`Method`]; from these follow its trials, which are settings of keys, and
//! its rungs: lengths that trials are trained to, at the end of each of which [`survivors`] go on.
//! A [`Ledger`] keeps what became of the trials, and a [`Leaderboard`] ranks them. Whoever trains
//! the trials is not here.

mod board;
mod distribution;
mod error;
mod halving;
mod ledger;
mod spec;
mod trial;

pub use board::{Leaderboard, Row, Status};
pub use distribution::Distribution;
pub use error::{SweepError, explain};
pub use halving::{Rung, rungs, survivors};
pub use ledger::{Ended, Ledger, Measured};
pub use spec::{Method, Metric, Sweep, builtin_sweeps};
pub use trial::{Setting, Trial, short_names};
