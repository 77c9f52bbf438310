use serde::{Deserialize, Serialize};

use super::ConfigError;

/// A shell pattern for names: `*` is any text, `?` any character, `[0-3]` one of several. It
/// stands for a whole name or for all that follows one of its dots, so that `attention.*` names
/// the same in every layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(glob::Pattern);

impl NamePattern {
    pub fn matches(&self, name: &str) -> bool {
        let after_dots = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        std::iter::once(name).chain(after_dots).any(|name| self.0.matches(name))
    }
}

impl TryFrom<String> for NamePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match glob::Pattern::new(&text) {
            Ok(pattern) => Ok(Self(pattern)),
            Err(error) => Err(format!("`{text}` is not a pattern: {}", error.msg)),
        }
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0.as_str().into()
    }
}

/// Which of the names some pattern matches. `key` is where the patterns come from.
///
/// # Errors
/// [`ConfigError::NoMatch`] for a pattern that matches none of them.
pub fn select_names(
    key: &'static str,
    patterns: &[NamePattern],
    names: &[String],
) -> Result<Vec<bool>, ConfigError> {
    let mut selected = vec![false; names.len()];
    for pattern in patterns {
        let mut matches = 0;
        for (name, selected) in names.iter().zip(&mut selected) {
            if pattern.matches(name) {
                *selected = true;
                matches += 1;
            }
        }
        if matches == 0 {
            let mut known: Vec<String> = names.iter().map(|name| component(name)).collect();
            let mut seen = std::collections::HashSet::new();
            known.retain(|name| seen.insert(name.clone()));
            let pattern = pattern.0.as_str().into();
            return Err(ConfigError::NoMatch { key, pattern, known: known.join(", ") });
        }
    }
    Ok(selected)
}

/// What a parameter is, whatever its layer: `decoder.blocks.3.attention.qkv.weight` is
/// `decoder.blocks.*.attention.qkv.weight`.
pub fn component(name: &str) -> String {
    let part = |part| if str::parse::<usize>(part).is_ok() { "*" } else { part };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}
