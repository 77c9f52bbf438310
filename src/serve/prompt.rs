use super::body::{Fields, Policy, Prompt};
use super::error::ApiError;
use super::site::Served;
use crate::data::Task;
use crate::generate::{Overflow, Request, SequenceError, begun};

/// Tokens of a completion where nothing is said, as in OpenAI's interface.
const COMPLETION_TOKENS: usize = 16;

/// Which of the two interfaces is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Completion,
    Chat,
}

/// What a client asks for.
pub(super) struct Asked {
    /// Of each prompt as many as are wanted, one after the other.
    pub(super) requests: Vec<Request>,
    pub(super) prompt_tokens: usize,
    /// What stands before each text in the answer.
    pub(super) echoes: Vec<String>,
}

impl Asked {
    /// # Errors
    /// A prompt that the model cannot read, or a setting that is out of range.
    pub(super) fn new(served: &Served, form: Form, fields: &Fields) -> Result<Self, ApiError> {
        let echo = fields.echo.unwrap_or_default();
        let prompts = match form {
            Form::Completion => {
                if fields.messages.is_some() {
                    let message = "messages are for /v1/chat/completions; give a prompt here";
                    return Err(ApiError::bad(message).of("messages"));
                }
                if echo && fields.alternatives().is_some() {
                    let message = "the log-probabilities of a prompt are not computed; leave out echo or logprobs";
                    return Err(ApiError::bad(message).of("echo"));
                }
                served.completed(fields.prompt.as_ref())?
            }
            Form::Chat => {
                for (is_there, field) in
                    [(fields.prompt.is_some(), "prompt"), (fields.echo.is_some(), "echo")]
                {
                    if is_there {
                        let message =
                            format!("{field} is for /v1/completions; give only messages here");
                        return Err(ApiError::bad(message).of(field));
                    }
                }
                if let Task::Translation { .. } = served.task {
                    return Err(ApiError::bad("this model translates; use /v1/completions"));
                }
                let messages = fields.messages.as_deref().unwrap_or_default();
                let text = served.template.text(served.tokenizer.as_ref(), messages)?;
                vec![(served.encoded(&text, "messages")?, text)]
            }
        };
        let mut asked = Self { requests: Vec::new(), prompt_tokens: 0, echoes: Vec::new() };
        let most_texts = served.most_texts;
        if prompts.len().saturating_mul(fields.texts()) > most_texts {
            let message = format!("at most {most_texts} texts may be asked for at a time");
            // More prompts than that are too many, whatever `n` is.
            let field = if prompts.len() > most_texts { "prompt" } else { "n" };
            return Err(ApiError::bad(message).of(field));
        }
        let seed = fields.seed.map_or_else(rand::random, |seed| seed as u64);
        for (tokens, text) in prompts {
            asked.prompt_tokens += tokens.len();
            for number in 0..fields.texts() {
                let seed = seed.wrapping_add(number as u64);
                asked.requests.push(served.request(form, fields, tokens.clone(), seed)?);
                asked.echoes.push(if echo { text.clone() } else { String::new() });
            }
        }
        Ok(asked)
    }
}

impl Served {
    /// The prompts of a completion, with their texts.
    fn completed(&self, prompt: Option<&Prompt>) -> Result<Vec<(Vec<u32>, String)>, ApiError> {
        let tokenizer = self.tokenizer.as_ref();
        let of_text =
            |text: &String| Ok((self.checked(self.encoded(text, "prompt")?)?, text.clone()));
        let of_tokens =
            |tokens: &Vec<u32>| Ok((self.checked(tokens.clone())?, tokenizer.decode(tokens)));
        match prompt {
            None => of_text(&String::new()).map(|prompt| vec![prompt]),
            Some(Prompt::Text(text)) => of_text(text).map(|prompt| vec![prompt]),
            Some(Prompt::Tokens(tokens)) => of_tokens(tokens).map(|prompt| vec![prompt]),
            Some(Prompt::Texts(texts)) => texts.iter().map(of_text).collect(),
            Some(Prompt::TokenLists(lists)) => lists.iter().map(of_tokens).collect(),
        }
    }

    /// The tokens of a prompt, after the one that the model has learned to begin with. Where there
    /// is no text at all, the one that stands between texts.
    fn encoded(&self, text: &str, param: &str) -> Result<Vec<u32>, ApiError> {
        let tokenizer = self.tokenizer.as_ref();
        let tokens =
            tokenizer.encode(text).map_err(|error| ApiError::bad(error.to_string()).of(param))?;
        if let Task::Translation { .. } = self.task {
            return Ok(tokens);
        }
        let tokens = begun(tokenizer, tokens);
        Ok(match tokens[..] {
            [] => tokenizer.end_of_text().into_iter().collect(),
            _ => tokens,
        })
    }

    /// What the engine would find wrong only when its turn has come.
    fn checked(&self, tokens: Vec<u32>) -> Result<Vec<u32>, ApiError> {
        let vocab_size = self.vocab_size;
        let wrong = if tokens.is_empty() {
            Some(SequenceError::EmptyPrompt)
        } else {
            let unknown = tokens.iter().copied().find(|id| *id as usize >= vocab_size);
            unknown.map(|id| SequenceError::UnknownToken { id, vocab_size })
        };
        match wrong {
            Some(wrong) => Err(ApiError::bad(wrong.to_string()).of("prompt")),
            None => Ok(tokens),
        }
    }

    fn request(
        &self,
        form: Form,
        fields: &Fields,
        tokens: Vec<u32>,
        seed: u64,
    ) -> Result<Request, ApiError> {
        let (sampling, penalties) = fields.sampling()?;
        let usual = match form {
            Form::Completion => COMPLETION_TOKENS.min(self.most_tokens),
            Form::Chat => self.most_tokens,
        };
        let (max_tokens, field) = fields.most_tokens().unwrap_or((usual, "max_tokens"));
        if max_tokens > self.most_tokens {
            let message = format!(
                "{max_tokens} tokens are more than the {} that this server gives",
                self.most_tokens
            );
            return Err(ApiError::bad(message).of(field));
        }
        let (length, context_length) = (tokens.len(), self.context_length);
        let param = match form {
            Form::Completion => "prompt",
            Form::Chat => "messages",
        };
        let slides = fields.overflow == Some(Policy::Slide);
        let request = match self.task {
            Task::Translation { begin, .. } => {
                if slides {
                    let message =
                        "this model translates, and a translation cannot slide; leave out overflow";
                    return Err(ApiError::bad(message).of("overflow"));
                }
                if length > context_length {
                    let wrong = SequenceError::Source { length, most: context_length };
                    return Err(ApiError::long_prompt(wrong.to_string()).of(param));
                }
                Request::translation(tokens, begin, sampling, seed, max_tokens)
            }
            _ => {
                if length > context_length && !slides {
                    let wrong = SequenceError::LongPrompt { length, context_length };
                    return Err(ApiError::long_prompt(wrong.to_string()).of(param));
                }
                let overflow = match slides {
                    true => Overflow::slide(self.tokenizer.as_ref()),
                    false => Overflow::Stop,
                };
                let request = Request::new(tokens, sampling, seed, max_tokens);
                Request { overflow, ..request }
            }
        };
        let mut stop_strings = fields.stops();
        let mut stop_tokens = Vec::new();
        if form == Form::Chat {
            stop_strings.extend(self.template.stop_strings());
            stop_tokens.extend(self.template.stop_token(self.tokenizer.as_ref()));
        }
        let alternatives = fields.alternatives();
        Ok(Request { penalties, stop_strings, stop_tokens, alternatives, ..request })
    }
}
