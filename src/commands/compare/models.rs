use std::collections::HashMap;
use std::sync::Arc;

use crate::artifact::Run;
use crate::backend::{GptBackend, Job, TrainBackend};
use crate::cli::CompareArgs;
use crate::commands::generate::{check_prompt, penalties, sampling};
use crate::commands::progress::{self, note};
use crate::data::{Corpus, Split, Task};
use crate::eval::{HeldOut, Measure, Outcome, Stopped};
use crate::generate::{Batch, NextToken, Overflow, Request, Ticket, begun, opening};
use crate::model::Model as AnyModel;
use crate::tokenizer::Tokenizer;
use crate::train::LanguageModel;

/// The model of a run, and what it is asked for.
pub(super) struct Model<'a> {
    args: &'a CompareArgs,
    run: &'a Run,
    tokenizer: Arc<dyn Tokenizer>,
    task: Task,
    /// None of a prompt that is not read.
    requests: Vec<Option<Request>>,
}

/// What a model was asked to write.
struct Texts<'m, B: GptBackend, M: NextToken<B>> {
    batch: Batch<'m, B, M>,
    /// Which text each is.
    tickets: HashMap<Ticket, usize>,
    /// As the requests.
    texts: Vec<Option<String>>,
}

impl<B: GptBackend, M: NextToken<B>> Texts<'_, B, M> {
    fn write(mut self) -> Vec<Option<String>> {
        while !self.batch.is_empty() {
            for (ticket, progress) in self.batch.step() {
                let number = self.tickets.get(&ticket);
                if let Some(text) = number.and_then(|number| self.texts[*number].as_mut()) {
                    *text += &progress.text;
                }
            }
        }
        self.texts
    }
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
        let step = self.run.best_step()?;
        let model = self.run.load_checkpoint::<B::InnerBackend>(step, &device)?;
        let model = LanguageModel::new(model, &self.run.config().model);
        // What the model refuses is to be known before a long measurement, not after it.
        let ((measured, whole), texts) = match &model.model {
            AnyModel::Gpt(gpt) => {
                let texts = self.texts(gpt)?;
                (self.measure(&model)?, texts.write())
            }
            AnyModel::Seq2Seq(seq2seq) => {
                let texts = self.texts(seq2seq)?;
                (self.measure(&model)?, texts.write())
            }
            AnyModel::Encoder(_) => (self.measure(&model)?, vec![None; self.requests.len()]),
        };
        Ok(Found { step, measured, whole, texts })
    }
}

impl<'a> Model<'a> {
    /// `asked` are prompts and seeds.
    ///
    /// # Errors
    /// A prompt of the command line that the run cannot read.
    pub(super) fn new(
        args: &'a CompareArgs,
        run: &'a Run,
        asked: &[(&str, u64)],
    ) -> anyhow::Result<Self> {
        let tokenizer: Arc<dyn Tokenizer> = run.tokenizer()?.into();
        let task = run.task(tokenizer.as_ref());
        if let Task::MaskedTokens { .. } = task {
            // It continues nothing.
            return Ok(Self { args, run, tokenizer, task, requests: vec![None; asked.len()] });
        }
        let of = |asked: &(&str, u64)| request(args, run, *asked, task, tokenizer.as_ref());
        let requests = asked.iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
        if requests.iter().any(Option::is_none) {
            note(format_args!(
                "{} cannot read the prompt of the first run and writes nothing; give another with --prompt TEXT",
                run.name()
            ));
        }
        Ok(Self { args, run, tokenizer, task, requests })
    }

    /// The text that all are measured on, or the run's own validation split, and whether all of it.
    fn measure<B: GptBackend>(&self, model: &LanguageModel<B>) -> anyhow::Result<(Outcome, bool)> {
        let (config, tokenizer) = (self.run.config(), &self.tokenizer);
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
        let mut held_out = HeldOut::new(split, self.task, context_length, None)?;
        let windows = held_out.len();
        held_out.limit(self.args.limit as usize);
        let whole = held_out.len() == windows;
        let bytes = held_out.bytes(tokenizer.as_ref());
        let top_k: Vec<usize> = self.args.accuracies.iter().map(|k| *k as usize).collect();
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

    /// Asks for each as `emberlm generate` would.
    fn texts<'m, B: GptBackend, M: NextToken<B>>(
        &'m self,
        model: &'m M,
    ) -> anyhow::Result<Texts<'m, B, M>> {
        let tokenizer = self.tokenizer.as_ref();
        let mut batch = Batch::new(model, tokenizer, self.task.end(tokenizer));
        let mut tickets = HashMap::new();
        let texts = self.requests.iter().map(|request| request.as_ref().map(|_| String::new()));
        for (number, request) in self.requests.iter().enumerate() {
            if let Some(request) = request {
                tickets.insert(batch.enter(request.clone())?, number);
            }
        }
        Ok(Texts { batch, tickets, texts: texts.collect() })
    }
}

/// None of a prompt that nobody has asked for, and that the run cannot read.
fn request(
    args: &CompareArgs,
    run: &Run,
    (prompt, seed): (&str, u64),
    task: Task,
    tokenizer: &dyn Tokenizer,
) -> anyhow::Result<Option<Request>> {
    let (sampling, most) = (sampling(&args.sampling), args.max_tokens);
    let is_asked_for = !args.prompt.is_empty();
    let tokens = match (tokenizer.encode(prompt), is_asked_for) {
        (Ok(_), false) => opening(tokenizer, prompt),
        (Ok(tokens), true) => tokens,
        // It is the first run's, and another may not have its characters.
        (Err(_), false) => return Ok(None),
        (Err(error), true) => {
            let context = format!("the prompt {prompt:?} cannot be encoded");
            return Err(anyhow::Error::new(error).context(context));
        }
    };
    match check_prompt(&tokens, run, task) {
        Err(_) if !is_asked_for => return Ok(None),
        checked => checked?,
    }
    let request = match task.begin() {
        Some(begin) => Request::translation(tokens, begin, sampling, seed, most),
        None => Request {
            overflow: Overflow::slide(tokenizer),
            ..Request::new(begun(tokenizer, tokens), sampling, seed, most)
        },
    };
    Ok(Some(Request { penalties: penalties(&args.sampling), ..request }))
}
