use std::io::{BufWriter, Write};

use super::{open, text_or_stdin};
use crate::cli::ShowArgs;
use crate::report::terminal::{Style, visible};
use crate::tokenizer::Tokenizer;

/// Light backgrounds of the 256 colours, for black text: blue, orange, green, pink.
const BACKGROUNDS: [u8; 4] = [153, 222, 157, 218];
const RESET: &str = "\x1b[0m";
/// Characters of a line of ids.
const WIDTH: usize = 80;

pub(super) fn run(args: ShowArgs) -> anyhow::Result<()> {
    let tokenizer = open(&args.tokenizer, &args.runs)?;
    let text = text_or_stdin(args.text)?;
    let ids = tokenizer.encode(&text)?;
    let stdout = std::io::stdout();
    let color = Style::of_stdout().color;
    let mut out = BufWriter::new(stdout.lock());
    write_tokens(&mut out, tokenizer.as_ref(), &ids, color)?;
    write_ids(&mut out, &ids, color)?;
    let characters = text.chars().count();
    write!(out, "{} tokens, {characters} characters, {} bytes", ids.len(), text.len())?;
    match ids.len() {
        0 => writeln!(out)?,
        tokens => writeln!(out, ", {:.2} bytes a token", text.len() as f64 / tokens as f64)?,
    }
    out.flush()?;
    Ok(())
}

fn background(number: usize, color: bool) -> String {
    if color {
        format!("\x1b[38;5;16;48;5;{}m", BACKGROUNDS[number % BACKGROUNDS.len()])
    } else {
        String::new()
    }
}

fn write_tokens(
    out: &mut impl Write,
    tokenizer: &dyn Tokenizer,
    ids: &[u32],
    color: bool,
) -> std::io::Result<()> {
    let mut at_line_start = true;
    for (number, id) in ids.iter().enumerate() {
        if !color && !at_line_start {
            write!(out, "|")?;
        }
        let bytes = tokenizer.token_bytes(*id).unwrap_or_default();
        let visible = visible(&bytes);
        at_line_start = visible.ends_with('\n');
        let background = background(number, color);
        // A colour that went over the end of a line would fill the rest of it.
        for line in visible.split_inclusive('\n') {
            let (line, end) = match line.strip_suffix('\n') {
                Some(line) => (line, "\n"),
                None => (line, ""),
            };
            let reset = if color { RESET } else { "" };
            write!(out, "{background}{line}{reset}{end}")?;
        }
    }
    if at_line_start { Ok(()) } else { writeln!(out) }
}

fn write_ids(out: &mut impl Write, ids: &[u32], color: bool) -> std::io::Result<()> {
    let mut column = 0;
    for (number, id) in ids.iter().enumerate() {
        let text = id.to_string();
        if column + 1 + text.len() > WIDTH {
            writeln!(out)?;
            column = 0;
        }
        if column > 0 {
            write!(out, " ")?;
        }
        column += text.len() + usize::from(column > 0);
        let reset = if color { RESET } else { "" };
        write!(out, "{}{text}{reset}", background(number, color))?;
    }
    writeln!(out)
}
