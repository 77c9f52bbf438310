//! Objects whose `kind` may be left out.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Key, the kind that is meant where none is given, and the keys that mean the same in every kind:
/// they outlive a change of it.
const OBJECTS: [(&str, &str, &[&str]); 2] = [
    ("optimizer", "adamw", &["groups"]),
    ("schedule", "cosine", &["learning_rate", "warmup_steps"]),
];

/// Reads a document that is an object of the default kind, or says which kind it is.
pub(super) fn with_kind<'de, D: Deserializer<'de>>(
    deserializer: D,
    default: &str,
) -> Result<Value, D::Error> {
    let mut value = Value::deserialize(deserializer)?;
    if let Value::Object(map) = &mut value {
        map.entry("kind").or_insert_with(|| default.into());
    }
    Ok(value)
}

/// Makes `below` an object of the kind that is going to be laid on it, where its key is one of
/// ours: what another kind would not understand goes.
pub(super) fn change_kind(key: &str, below: &mut Value, over: &Value) {
    let object = OBJECTS.iter().find(|(name, ..)| *name == key);
    if let (Some((_, default, common)), Some(below), Some(kind)) =
        (object, below.as_object_mut(), over.get("kind"))
    {
        if below.get("kind").unwrap_or(&Value::from(*default)) != kind {
            below.retain(|key, _| common.contains(&key.as_str()));
        }
        below.insert("kind".into(), kind.clone());
    }
}
