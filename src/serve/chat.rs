use super::body::{Message, Role};
use super::error::ApiError;
use crate::tokenizer::Tokenizer;

/// How a conversation becomes a text that is to be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) name: &'static str,
    /// Special tokens by which a tokenizer is known to be for it; the last ends a message.
    marks: &'static [&'static str],
    /// Names of system, user and assistant.
    roles: [&'static str; 3],
    before_role: &'static str,
    after_role: &'static str,
    after_message: &'static str,
    /// After the assistant's name, where it is to answer.
    opening: &'static str,
    /// Strings that end an answer.
    stops: &'static [&'static str],
}

const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Those that are told by special tokens, and last the plain one, which needs none.
const TEMPLATES: [Template; 4] = [
    Template {
        name: "chatml",
        marks: &["<|im_start|>", "<|im_end|>"],
        roles: ROLES,
        before_role: "<|im_start|>",
        after_role: "\n",
        after_message: "<|im_end|>\n",
        opening: "\n",
        stops: &[],
    },
    Template {
        name: "llama-3",
        marks: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        roles: ROLES,
        before_role: "<|start_header_id|>",
        after_role: "<|end_header_id|>\n\n",
        after_message: "<|eot_id|>",
        opening: "<|end_header_id|>\n\n",
        stops: &[],
    },
    Template {
        name: "gemma",
        marks: &["<start_of_turn>", "<end_of_turn>"],
        roles: ["user", "user", "model"],
        before_role: "<start_of_turn>",
        after_role: "\n",
        after_message: "<end_of_turn>\n",
        opening: "\n",
        stops: &[],
    },
    PLAIN,
];

const PLAIN: Template = Template {
    name: "plain",
    marks: &[],
    roles: ["System", "User", "Assistant"],
    before_role: "",
    after_role: ": ",
    after_message: "\n",
    opening: ":",
    stops: &["\nUser:", "\nSystem:"],
};

/// The id of a text that is one token.
fn single(tokenizer: &dyn Tokenizer, text: &str) -> Option<u32> {
    match tokenizer.encode(text).ok()?[..] {
        [id] => Some(id),
        _ => None,
    }
}

impl Template {
    /// The first whose special tokens the tokenizer has.
    pub(super) fn of(tokenizer: &dyn Tokenizer) -> Self {
        let knows_all = |it: &Self| it.marks.iter().all(|mark| single(tokenizer, mark).is_some());
        TEMPLATES.into_iter().find(knows_all).unwrap_or(PLAIN)
    }

    /// # Errors
    /// No messages, one without text, or one that has a special token of the template.
    pub(super) fn text(&self, messages: &[Message]) -> Result<String, ApiError> {
        if messages.is_empty() {
            return Err(ApiError::bad("there are no messages").of("messages"));
        }
        let mut text = String::new();
        for (number, message) in messages.iter().enumerate() {
            let param = format!("messages[{number}].content");
            let content = message.content.as_ref().map(|content| content.text());
            let content =
                content.ok_or_else(|| ApiError::bad("a message has no text").of(&param))?;
            if let Some(mark) = self.marks.iter().find(|mark| content.contains(**mark)) {
                let message = format!("a message cannot have the special token {mark}");
                return Err(ApiError::bad(message).of(param));
            }
            let role = self.role(message.role);
            for part in [self.before_role, role, self.after_role, &content, self.after_message] {
                text += part;
            }
        }
        Ok(text + self.before_role + self.role(Role::Assistant) + self.opening)
    }

    fn role(&self, role: Role) -> &'static str {
        let [system, user, assistant] = self.roles;
        match role {
            Role::System => system,
            Role::User => user,
            Role::Assistant => assistant,
        }
    }

    pub(super) fn stop_strings(&self) -> impl Iterator<Item = String> {
        self.stops.iter().map(|stop| String::from(*stop))
    }

    pub(super) fn stop_token(&self, tokenizer: &dyn Tokenizer) -> Option<u32> {
        single(tokenizer, self.marks.last()?)
    }
}
