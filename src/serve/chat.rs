use super::body::{Message, Role};
use super::error::ApiError;
use crate::tokenizer::Tokenizer;

/// How a conversation becomes a text that is to be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) name: &'static str,
    /// Special tokens by which a tokenizer is known to be for it; the last ends a message.
    marks: &'static [&'static str],
    /// Names of user and assistant, and of system. Where that has none, its text stands before the
    /// user's next, with an empty line between them.
    roles: [&'static str; 2],
    system: Option<&'static str>,
    /// Whether white space around a message is left out.
    trims: bool,
    before_role: &'static str,
    after_role: &'static str,
    after_message: &'static str,
    /// After the assistant's name, where it is to answer.
    opening: &'static str,
    /// Strings that end an answer.
    stops: &'static [&'static str],
}

const ROLES: [&str; 2] = ["user", "assistant"];

/// Those that are told by special tokens, as the models' makers publish them (ChatML of OpenAI and
/// Qwen; Llama 3; Gemma 3), and last the plain one, which needs none. The token that a text begins
/// with is not theirs to add.
const TEMPLATES: [Template; 4] = [
    Template {
        name: "chatml",
        marks: &["<|im_start|>", "<|im_end|>"],
        roles: ROLES,
        system: Some("system"),
        trims: false,
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
        system: Some("system"),
        trims: true,
        before_role: "<|start_header_id|>",
        after_role: "<|end_header_id|>\n\n",
        after_message: "<|eot_id|>",
        opening: "<|end_header_id|>\n\n",
        stops: &[],
    },
    Template {
        name: "gemma",
        marks: &["<start_of_turn>", "<end_of_turn>"],
        roles: ["user", "model"],
        system: None,
        trims: true,
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
    roles: ["User", "Assistant"],
    system: Some("System"),
    trims: false,
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
    /// No messages, one without text, or one that has a special token of the template, or one that
    /// begins or ends texts.
    pub(super) fn text(
        &self,
        tokenizer: &dyn Tokenizer,
        messages: &[Message],
    ) -> Result<String, ApiError> {
        if messages.is_empty() {
            return Err(ApiError::bad("there are no messages").of("messages"));
        }
        let (mut text, mut instructions) = (String::new(), String::new());
        let [user, assistant] = self.roles;
        let specials = self.specials(tokenizer);
        for (number, message) in messages.iter().enumerate() {
            let param = format!("messages[{number}].content");
            let content = message.content.as_ref().map(|content| content.text());
            let content =
                content.ok_or_else(|| ApiError::bad("a message has no text").of(&param))?;
            if let Some(mark) = specials.iter().find(|mark| content.contains(&mark[..])) {
                let message = format!("a message cannot have the special token {mark}");
                return Err(ApiError::bad(message).of(param));
            }
            match (message.role, self.system) {
                (Role::System, Some(system)) => self.add(&mut text, system, "", &content),
                (Role::System, None) => instructions += &(content + "\n\n"),
                (Role::User, _) => {
                    self.add(&mut text, user, &std::mem::take(&mut instructions), &content);
                }
                (Role::Assistant, _) => self.add(&mut text, assistant, "", &content),
            }
        }
        if !instructions.is_empty() {
            self.add(&mut text, user, "", &instructions);
        }
        Ok(text + self.before_role + assistant + self.opening)
    }

    /// What a message cannot say without being taken for more than its author may say.
    fn specials(&self, tokenizer: &dyn Tokenizer) -> Vec<String> {
        let ends = [tokenizer.beginning_of_text(), tokenizer.end_of_text()].into_iter().flatten();
        let text_of =
            |id| Some(tokenizer.decode(&[id])).filter(|it| single(tokenizer, it) == Some(id));
        // A single character is none that was made for this.
        let of_texts = ends.filter_map(text_of).filter(|text| text.chars().count() > 1);
        self.marks.iter().map(|mark| String::from(*mark)).chain(of_texts).collect()
    }

    fn add(&self, text: &mut String, role: &str, before: &str, content: &str) {
        let content = if self.trims { content.trim() } else { content };
        for part in [self.before_role, role, self.after_role, before, content, self.after_message] {
            *text += part;
        }
    }

    pub(super) fn stop_strings(&self) -> impl Iterator<Item = String> {
        self.stops.iter().map(|stop| String::from(*stop))
    }

    pub(super) fn stop_token(&self, tokenizer: &dyn Tokenizer) -> Option<u32> {
        single(tokenizer, self.marks.last()?)
    }
}
