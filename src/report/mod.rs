//! What is shown of runs and of models: curves, pictures, trees, tables, pages. Everything here is
//! made of numbers that others have computed; a page is one file that asks nobody for anything.
//!
//! [`Curves`] are a run's losses over steps, tokens, operations and time; [`line_chart`] draws them
//! in text, [`Picture`] as SVG and PNG, and a [`Comparison`] of several runs is a page with them.
//! [`inside`] looks into a model while it computes.

mod chart;
mod comparison;
mod curves;
pub mod inside;
mod page;
mod picture;
pub mod terminal;

pub use chart::{Line, colour, line_chart};
pub use comparison::{Compared, Comparison, Difference, Written, differences};
pub use curves::{Axis, CurvePoint, Curves, range};
pub use page::LOOK;
pub use picture::{Picture, PictureError};
