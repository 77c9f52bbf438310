use serde::Serialize;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Generate, Prompt};
use crate::backend::GptBackend;
use crate::generate::{
    Batch, Choice, Finish, NextToken, Progress, Request, Ticket, beam_search, vocabulary,
};

/// Texts on their way to the terminal or to lines of JSON, in the order in which they were asked
/// for. The first that is not whole is written as it comes, and what others have meanwhile waits.
pub(super) struct Texts<'a, B: GptBackend, M: NextToken<B>, W> {
    generate: &'a Generate<'a>,
    model: &'a M,
    batch: Batch<'a, B, M>,
    waiting: VecDeque<Text>,
    /// Texts that have been written.
    written: usize,
    /// Cleared where what is being written is to be left as it is.
    going: Arc<AtomicBool>,
    out: W,
}

struct Text {
    ticket: Option<Ticket>,
    prompt: String,
    seed: u64,
    /// What is not written yet, of which JSON has the whole.
    text: String,
    choices: Vec<Choice>,
    finish: Option<Finish>,
    /// Whether its first part has been written.
    begun: bool,
    /// Of a beam.
    score: Option<f64>,
}

impl<'a, B: GptBackend, M: NextToken<B>, W: Write> Texts<'a, B, M, W> {
    pub(super) fn new(generate: &'a Generate<'a>, model: &'a M, out: W) -> Self {
        let batch = Batch::new(model, generate.tokenizer, generate.end());
        let going = Arc::new(AtomicBool::new(true));
        Self { generate, model, batch, waiting: VecDeque::new(), written: 0, going, out }
    }

    /// Whether texts are to be written on; who clears it calls [`Texts::stop`] then.
    pub(super) fn going(&self) -> Arc<AtomicBool> {
        self.going.clone()
    }

    fn goes_on(&self) -> bool {
        self.going.load(Ordering::SeqCst)
    }

    pub(super) fn into_out(self) -> W {
        self.out
    }

    /// Asks for the texts of a prompt, with seeds from that of the command line and so many more
    /// on; goes on with others where there are enough.
    pub(super) fn write(&mut self, prompt: &Prompt, more: u64) -> anyhow::Result<()> {
        let args = self.generate.args;
        for sample in 0..args.samples {
            let seed = args.sampling.seed.wrapping_add(more + sample);
            let mut text = Text {
                ticket: None,
                prompt: prompt.text.clone(),
                seed,
                text: String::new(),
                choices: Vec::new(),
                finish: None,
                begun: false,
                score: None,
            };
            match args.beams {
                Some(beams) => self.search(prompt, beams as usize, &mut text)?,
                None => {
                    while self.batch.len() >= args.batch as usize && self.goes_on() {
                        self.step()?;
                    }
                    text.ticket = Some(self.batch.enter(self.generate.request(prompt, seed))?);
                }
            }
            self.waiting.push_back(text);
            self.flush()?;
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
    }

    /// The likeliest text instead of any.
    fn search(&self, prompt: &Prompt, beams: usize, text: &mut Text) -> anyhow::Result<()> {
        let request = self.generate.request(prompt, 0);
        let search = self.generate.beam_search(beams);
        let tokenizer = self.generate.tokenizer;
        let vocab_size = vocabulary(tokenizer, self.generate.end());
        let Request { source, prompt, .. } = &request;
        let goes_on = &mut || self.goes_on();
        let found = beam_search(self.model, vocab_size, source, prompt, &search, goes_on)?;
        if !self.goes_on() {
            return Ok(());
        }
        let Some(best) = found.into_iter().next() else {
            text.finish = Some(Finish::MaxTokens);
            return Ok(());
        };
        let choice = |token: &u32| Choice { token: *token, log_probabilities: None };
        text.choices = best.tokens.iter().map(choice).collect();
        let (tokens, finish) = match best.tokens.split_last() {
            Some((last, rest)) if search.stop_tokens.contains(last) => {
                (rest, Finish::StopToken(*last))
            }
            _ if best.tokens.len() < search.max_tokens => (&best.tokens[..], Finish::Context),
            _ => (&best.tokens[..], Finish::MaxTokens),
        };
        text.text = tokenizer.decode(tokens);
        text.finish = Some(finish);
        text.score = Some(best.score);
        Ok(())
    }

    /// A token more for each text.
    pub(super) fn step(&mut self) -> io::Result<()> {
        for (ticket, progress) in self.batch.step() {
            let text = self.waiting.iter_mut().find(|text| text.ticket == Some(ticket));
            if let Some(text) = text {
                text.add(progress);
            }
        }
        self.flush()
    }

    /// Whether there is nothing more to come.
    pub(super) fn is_finished(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        while !self.is_finished() && self.goes_on() {
            self.step()?;
        }
        Ok(())
    }

    /// Leaves all texts as they are.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        for text in std::mem::take(&mut self.waiting) {
            if let Some(ticket) = text.ticket {
                self.batch.leave(ticket);
            }
        }
        writeln!(self.out)
    }

    /// Writes what can be.
    fn flush(&mut self) -> io::Result<()> {
        let json = self.generate.args.json;
        while let Some(text) = self.waiting.front_mut() {
            if !json {
                if !text.begun {
                    text.begun = true;
                    if self.written > 0 && !self.generate.args.interactive {
                        writeln!(self.out, "\n---")?;
                    }
                    write!(self.out, "{}", self.generate.head(&text.prompt))?;
                }
                write!(self.out, "{}", std::mem::take(&mut text.text))?;
                self.out.flush()?;
            }
            if text.finish.is_none() {
                break;
            }
            if let (true, Some(text)) = (json, self.waiting.front()) {
                let document = self.document(text);
                serde_json::to_writer(&mut self.out, &document)?;
            }
            writeln!(self.out)?;
            self.out.flush()?;
            self.written += 1;
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// A text as JSON.
    fn document<'b>(&self, text: &'b Text) -> Document<'b> {
        let named = |id: u32, log_probability: f64| Token {
            id,
            token: self.generate.tokenizer.decode(&[id]),
            log_probability,
        };
        let of_choice = |choice: &Choice| {
            let found = choice.log_probabilities.as_ref()?;
            Some(ChosenToken {
                chosen: named(choice.token, found.token),
                rank: found.rank,
                top: found
                    .top
                    .iter()
                    .map(|(id, log_probability)| named(*id, *log_probability))
                    .collect(),
            })
        };
        Document {
            prompt: &text.prompt,
            text: &text.text,
            finish_reason: text.finish.as_ref().map(Finish::name),
            stop: match &text.finish {
                Some(Finish::StopString(stop)) => Some(stop),
                _ => None,
            },
            seed: text.score.is_none().then_some(text.seed),
            score: text.score,
            tokens: text.choices.iter().map(|choice| choice.token).collect(),
            // A text without a token has an empty list, where that was asked for.
            log_probabilities: self
                .generate
                .args
                .logprobs
                .and_then(|_| text.choices.iter().map(of_choice).collect()),
        }
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Document<'a> {
    prompt: &'a str,
    text: &'a str,
    /// As OpenAI's interface has it.
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// With the token that has ended the text.
    tokens: Vec<u32>,
    /// Where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_probabilities: Option<Vec<ChosenToken>>,
}

#[derive(Serialize)]
struct ChosenToken {
    #[serde(flatten)]
    chosen: Token,
    rank: usize,
    top: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    id: u32,
    token: String,
    log_probability: f64,
}

impl Text {
    fn add(&mut self, progress: Progress) {
        self.text += &progress.text;
        self.choices.extend(progress.choice);
        self.finish = progress.finish;
    }
}
