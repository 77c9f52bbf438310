use std::io::Read;

use super::bytes::Bytes;
use super::{CHUNK, Reader, Step};
use crate::data::DataError;

/// UTF-8 text: one document, or several with a separator between them.
pub(super) struct PlainText {
    bytes: Bytes,
    chunk: Vec<u8>,
    /// Bytes at the chunk's start of a character that the last one was cut in.
    held: usize,
    /// Of the chunk in the decompressed file.
    offset: usize,
    separator: Option<String>,
    /// What was read and not yet searched for the separator, from `start` on.
    text: String,
    start: usize,
    /// A separator stands right before.
    after_separator: bool,
    /// All of the file has been read.
    ended: bool,
    /// The last document has been handed out.
    last: bool,
}

impl PlainText {
    pub(super) fn new(bytes: Bytes, separator: Option<String>) -> Self {
        Self {
            offset: bytes.mark,
            bytes,
            chunk: vec![0; CHUNK],
            held: 0,
            separator,
            text: String::new(),
            start: 0,
            after_separator: false,
            ended: false,
            last: false,
        }
    }

    /// Appends the next characters of the file, or notes that it has ended.
    fn fill(&mut self, text: &mut String) -> Result<(), DataError> {
        let read = self.bytes.read(&mut self.chunk[self.held..]);
        let read = read.map_err(|error| self.bytes.failure(&error))?;
        self.ended = read == 0;
        let filled = self.held + read;
        let whole = if self.ended { filled } else { whole_characters(&self.chunk[..filled]) };
        let valid = std::str::from_utf8(&self.chunk[..whole]).map_err(|error| {
            let offset = self.offset + error.valid_up_to();
            DataError::NotUtf8 { path: self.bytes.path(), offset }
        })?;
        text.push_str(valid);
        self.chunk.copy_within(whole..filled, 0);
        self.held = filled - whole;
        self.offset += whole;
        Ok(())
    }

    /// Takes off a line break right after a separator; false until it is known whether there is.
    fn skip_line_break(&mut self) -> bool {
        let text = &self.text[self.start..];
        if !self.ended && (text.is_empty() || text == "\r") {
            return false;
        }
        let line_break = ["\r\n", "\n"].into_iter().find(|end| text.starts_with(end));
        self.start += line_break.map_or(0, str::len);
        self.after_separator = false;
        true
    }
}

/// The length of `bytes` without a character that is cut off at their end.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.len().saturating_sub(3);
    let lead = bytes[last..].iter().rposition(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let Some(lead) = lead.map(|lead| last + lead) else { return bytes.len() };
    let length = match bytes[lead] {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF7 => 4,
        _ => 1,
    };
    if lead + length > bytes.len() { lead } else { bytes.len() }
}

impl Reader for PlainText {
    fn next(&mut self, document: &mut String) -> Result<Step, DataError> {
        let Some(separator) = self.separator.take() else {
            if self.ended {
                return Ok(Step::FileEnd);
            }
            self.fill(document)?;
            return Ok(if self.ended { Step::DocumentEnd } else { Step::Part });
        };
        let step = self.next_separated(&separator, document);
        self.separator = Some(separator);
        step
    }
}

impl PlainText {
    fn next_separated(
        &mut self,
        separator: &str,
        document: &mut String,
    ) -> Result<Step, DataError> {
        if !self.after_separator || self.skip_line_break() {
            let text = &self.text[self.start..];
            if let Some(at) = text.find(separator) {
                document.push_str(&text[..at]);
                self.start += at + separator.len();
                self.after_separator = true;
                return Ok(Step::DocumentEnd);
            }
            // A separator may begin in the last bytes.
            let kept = if self.ended { 0 } else { separator.len() - 1 };
            let clear = text.floor_char_boundary(text.len().saturating_sub(kept));
            document.push_str(&text[..clear]);
            self.start += clear;
            if self.ended {
                let step = if self.last { Step::FileEnd } else { Step::DocumentEnd };
                self.last = true;
                return Ok(step);
            }
        }
        self.text.drain(..std::mem::take(&mut self.start));
        let mut text = std::mem::take(&mut self.text);
        let filled = self.fill(&mut text);
        self.text = text;
        filled.map(|()| Step::Part)
    }
}
