//! Text for terminals: widths, colours, and characters that cannot be seen.

use console::{Term, measure_text_width};
use std::borrow::Cow;
use std::io::IsTerminal;

/// How text may look where it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether colours are understood and wanted.
    pub color: bool,
    /// Columns of a line.
    pub width: usize,
}

/// Columns, where nobody says how many there are.
pub const WIDTH: usize = 80;
/// Narrower trees and tables cannot be drawn, and wider ones are harder to read.
const NARROWEST: usize = 40;
const WIDEST: usize = 120;

impl Style {
    /// Without colours, for files and pipes.
    pub const PLAIN: Self = Self { color: false, width: WIDTH };

    /// As it is fit for standard output: colours on a terminal whose owner wants them, and no wider
    /// lines than can be read.
    pub fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let columns = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
        let width = columns.filter(|_| is_terminal).unwrap_or(WIDTH);
        // https://no-color.org
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { color: is_terminal && !no_color, width: width.clamp(NARROWEST, WIDEST) }
    }

    /// What stands out.
    pub fn bold(&self, text: &str) -> String {
        self.escaped("1", text)
    }

    /// What explains the rest.
    pub fn dim(&self, text: &str) -> String {
        self.escaped("2", text)
    }

    /// Text in colours of the 256, some background behind some ink.
    pub fn on(&self, background: u8, ink: u8, text: &str) -> String {
        self.escaped(&format!("38;5;{ink};48;5;{background}"), text)
    }

    fn escaped(&self, code: &str, text: &str) -> String {
        match self.color && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.into(),
        }
    }
}

/// Lines of whole words that are no wider, where no word is.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let options = textwrap::Options::new(width).break_words(false);
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}

/// As much of a text as fits, with `…` where something is missing.
pub fn clipped(text: &str, width: usize) -> String {
    console::truncate_str(text, width, "…").into_owned()
}

/// Spaces that bring a text to a width.
pub fn padding(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(measure_text_width(text)))
}

/// A token's bytes as they can be read: `↵` before a line break, `→` for a tab, and the numbers of
/// bytes that are not UTF-8 or cannot be seen.
pub fn visible(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("↵\n"),
                '\t' => text.push('→'),
                control if control.is_control() => {
                    let mut buffer = [0; 4];
                    push_bytes(&mut text, control.encode_utf8(&mut buffer).as_bytes());
                }
                other => text.push(other),
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

/// A text in lines that a terminal takes for nothing else: no control character gets to it.
pub fn harmless(text: &str) -> String {
    text.split('\n').map(|line| visible(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("<0x{byte:02X}>"));
    }
}

/// Four digits of a number of any size, or three beside its power of ten, in at most nine columns.
pub fn short(number: f64) -> String {
    match number.abs() {
        _ if !number.is_finite() => number.to_string(),
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{number:.2e}"),
        size => {
            let decimals = (3 - size.log10().floor() as i32).clamp(1, 6) as usize;
            format!("{number:.decimals$}")
        }
    }
}
