//! What models look like from inside, as trees, tables and pictures: in a terminal, and as pages
//! that need nothing but themselves. Nothing here knows how it is asked for.

pub mod inside;
pub mod terminal;

/// How all pages of this program look: their colours in light and dark, their type, cards, buttons.
pub const LOOK: &str = include_str!("look.css");
