use super::Utf8Stream;

/// The bytes of tokens as text, up to the first stop string. No part of a stop string and no part
/// of a character is ever passed on.
///
/// It ends where a stop string is complete for the first time; of several that are complete there,
/// the longest counts. So it does not matter how the text comes in pieces.
#[derive(Debug, Default)]
pub struct TextStream {
    characters: Utf8Stream,
    stops: Vec<String>,
    /// The end of the text so far that may be the beginning of a stop string.
    held: String,
    found: Option<usize>,
}

impl TextStream {
    /// Empty stop strings stop nothing.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, ..Self::default() }
    }

    /// The stop string that has ended the text.
    pub fn stopped_by(&self) -> Option<&str> {
        self.found.map(|number| &self.stops[number][..])
    }

    /// The text that is certain by now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let text = self.characters.push(bytes);
        self.add(&text)
    }

    /// What is left when no more bytes come.
    pub fn finish(&mut self) -> String {
        let text = std::mem::take(&mut self.characters).finish();
        let certain = self.add(&text);
        certain + &std::mem::take(&mut self.held)
    }

    fn add(&mut self, text: &str) -> String {
        if self.stops.is_empty() {
            return text.into();
        }
        let mut certain = String::new();
        for character in text.chars() {
            if self.found.is_some() {
                break;
            }
            self.held.push(character);
            let complete =
                (0..self.stops.len()).filter(|stop| self.held.ends_with(&self.stops[*stop]));
            self.found = complete.max_by_key(|stop| self.stops[*stop].len());
            if let Some(found) = self.found {
                self.held.truncate(self.held.len() - self.stops[found].len());
                certain += &std::mem::take(&mut self.held);
            } else {
                let certain_now = self.held.len() - self.longest_beginning();
                certain.extend(self.held.drain(..certain_now));
            }
        }
        certain
    }

    /// Bytes at the end of what is held that a stop string begins with.
    fn longest_beginning(&self) -> usize {
        let is_beginning = |place: &usize| {
            let end = &self.held[*place..];
            self.stops.iter().any(|stop| stop.starts_with(end))
        };
        let places = self.held.char_indices().map(|(place, _)| place);
        places.into_iter().find(is_beginning).map_or(0, |place| self.held.len() - place)
    }
}
