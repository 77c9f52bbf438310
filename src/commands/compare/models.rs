use std::collections::HashMap;
use std::sync::Arc;

use crate::artifact::Run;
use crate::backend::{GptBackend, Job, TrainBackend};
use crate::cli::CompareArgs;
use crate::commands::generate::{penalties, sampling};
use crate::commands::progress::{self, note};
use crate::data::{Corpus, Split, Task};
use crate::eval::{HeldOut, Measure, Outcome, Stopped};
use crate::generate::{Batch, NextToken, Overflow, Request, Ticket, begun, opening};
use crate::model::Model as AnyModel;
use crate::tokenizer::Tokenizer;
use crate::train::LanguageModel;

/// The model of a run, and what it is asked for.
pub(super) struct Model<'a> {
    pub(super) args: &'a CompareArgs,
    pub(super) run: &'a Run,
    /// Prompts and seeds.
    pub(super) asked: &'a [(&'a str, u64)],
}

/// What a model was found to be worth, and wrote.
pub(super) struct Found {
    pub(super) step: usize,
    pub(super) measured: Outcome,
    /// Whether the text was read to its end.
    pub(super) whole: bool,
    /// Of each prompt and seed; none of a model that continues nothing.
    pub(super) texts: Vec<Option<String>>,
}

impl Job for Model<'_> {
    type Output = anyhow::Result<Found>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Found> {
        let config = self.run.config();
        let tokenizer: Arc<dyn Tokenizer> = self.run.tokenizer()?.into();
        let task = self.run.task(tokenizer.as_ref());
        let step = self.run.best_step()?;
        let model = self.run.load_checkpoint::<B::InnerBackend>(step, &device)?;
        let model = LanguageModel::new(model, &config.model);
        let (measured, whole) = self.measure(&model, task, &tokenizer)?;
        let texts = match &model.model {
            AnyModel::Gpt(model) => self.texts(model, task, tokenizer.as_ref())?,
            AnyModel::Seq2Seq(model) => self.texts(model, task, tokenizer.as_ref())?,
            AnyModel::Encoder(_) => vec![None; self.asked.len()],
        };
        Ok(Found { step, measured, whole, texts })
    }
}

impl Model<'_> {
    /// The text that all are measured on, or the run's own validation split, and whether all of it.
    fn measure<B: GptBackend>(
        &self,
        model: &LanguageModel<B>,
        task: Task,
        tokenizer: &Arc<dyn Tokenizer>,
    ) -> anyhow::Result<(Outcome, bool)> {
        let config = self.run.config();
        let (split, data) = match &self.args.text {
            Some(path) => {
                let split = Split::read(path, &config.data, tokenizer.as_ref(), &config.model)?;
                (split, path.display().to_string())
            }
            None => {
                let corpus = Corpus::load(config, Some(tokenizer.clone()))?;
                (corpus.validation, "each run's own validation split".into())
            }
        };
        let context_length = config.model.context_length;
        let mut held_out = HeldOut::new(split, task, context_length, None)?;
        let windows = held_out.len();
        held_out.limit(self.args.limit as usize);
        let whole = held_out.len() == windows;
        let bytes = held_out.bytes(tokenizer.as_ref());
        let top_k: Vec<usize> = self.args.top_k.iter().map(|k| *k as usize).collect();
        let bar = progress::items(held_out.len(), self.run.name());
        let mut watch = |done: usize| {
            bar.inc(done as u64);
            Ok::<(), Stopped>(())
        };
        let score = held_out.score(model, config.train.batch_size, &top_k, &mut watch)?;
        bar.finish_and_clear();
        held_out.split().check()?;
        let mut measures =
            vec![Measure::new("loss", score.loss), Measure::new("perplexity", score.perplexity())];
        measures.extend(bytes.map(|bytes| Measure::new("bits a byte", score.bits_per_byte(bytes))));
        measures.extend(
            score
                .hits
                .iter()
                .map(|(k, hits)| Measure::share(&format!("top-{k} accuracy"), *hits, score.tokens)),
        );
        let outcome = Outcome {
            task: "text".into(),
            data,
            weights: "f32".into(),
            protocol: held_out.protocol(),
            examples: score.tokens,
            measures,
        };
        Ok((outcome, whole))
    }

    /// As `emberlm generate` would write each.
    fn texts<B: GptBackend>(
        &self,
        model: &impl NextToken<B>,
        task: Task,
        tokenizer: &dyn Tokenizer,
    ) -> anyhow::Result<Vec<Option<String>>> {
        let begin = task.begin();
        let mut batch = Batch::new(model, tokenizer, task.end(tokenizer));
        let mut tickets: HashMap<Ticket, usize> = HashMap::new();
        let mut texts = vec![Some(String::new()); self.asked.len()];
        for (number, (prompt, seed)) in self.asked.iter().enumerate() {
            match self.request(prompt, *seed, begin, tokenizer)? {
                Some(request) => {
                    tickets.insert(batch.enter(request)?, number);
                }
                None => texts[number] = None,
            }
        }
        if texts.iter().any(Option::is_none) {
            note(format_args!(
                "{} cannot read the prompt of the first run and writes nothing; give another with --prompt TEXT",
                self.run.name()
            ));
        }
        while !batch.is_empty() {
            for (ticket, progress) in batch.step() {
                if let Some(text) = tickets.get(&ticket).and_then(|number| texts[*number].as_mut())
                {
                    *text += &progress.text;
                }
            }
        }
        Ok(texts)
    }

    /// None of a prompt that nobody has asked for, and that the run cannot read.
    fn request(
        &self,
        prompt: &str,
        seed: u64,
        begin: Option<u32>,
        tokenizer: &dyn Tokenizer,
    ) -> anyhow::Result<Option<Request>> {
        let (sampling, most) = (sampling(&self.args.sampling), self.args.max_tokens);
        let tokens = match (tokenizer.encode(prompt), self.args.prompt.is_empty()) {
            (Ok(_), true) => opening(tokenizer, prompt),
            (Ok(tokens), false) => tokens,
            // It is the first run's, and another may not have its characters.
            (Err(_), true) => return Ok(None),
            (Err(error), false) => {
                let context = format!("the prompt {prompt:?} cannot be encoded");
                return Err(anyhow::Error::new(error).context(context));
            }
        };
        let request = match begin {
            Some(begin) => Request::translation(tokens, begin, sampling, seed, most),
            None => Request {
                overflow: Overflow::slide(tokenizer),
                ..Request::new(begun(tokenizer, tokens), sampling, seed, most)
            },
        };
        Ok(Some(Request { penalties: penalties(&self.args.sampling), ..request }))
    }
}
