use anyhow::{Context, bail};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Subject;
use crate::backend::GptBackend;
use crate::cli::InspectArgs;
use crate::config::Architecture;
use crate::data::Task;
use crate::files::{self, write_error};
use crate::model::Model;
use crate::report::inside::{self, AttentionLayer, Holder, Passage, Selection};
use crate::report::terminal::Style;

/// Maps that are printed where nobody says which; of more layers the first, the middle and the last.
const MOST_MAPS: usize = 24;

/// What is to be looked at.
pub(super) struct Asked {
    passage: Passage,
    /// The texts of its tokens, and of its source's.
    tokens: Vec<String>,
    source: Vec<String>,
    layers: Vec<usize>,
    head: Option<usize>,
    place: usize,
    page: Option<PathBuf>,
}

/// What has been seen.
#[derive(Serialize)]
pub(super) struct Seen {
    layers: Vec<AttentionLayer>,
    /// Where it was written.
    page: Option<PathBuf>,
}

impl Asked {
    pub(super) fn new(args: &InspectArgs, text: &str, subject: &Subject) -> anyhow::Result<Self> {
        let mut passage = subject.passage(text, args.target.as_deref(), "--attention")?;
        if let Task::Translation { begin, .. } = subject.task()? {
            passage.tokens.insert(0, begin);
        }
        let model = &subject.config.model;
        let most = match model.architecture {
            Architecture::EncoderDecoder => model.n_layers.max(model.n_encoder_layers()),
            _ => model.n_layers,
        };
        if let Some(layer) = args.layer.iter().find(|layer| **layer >= most) {
            bail!("--layer: there is no layer {layer}; there are 0 to {}", most - 1);
        }
        if let Some(head) = args.head.filter(|head| *head >= model.n_heads) {
            bail!("--head: there is no head {head}; there are 0 to {}", model.n_heads - 1);
        }
        // The last layer is the one whose steps are shown; of an encoder where no other is asked for.
        let is_encoder = |layer: &usize| passage.source.is_some() && *layer >= model.n_layers;
        let looking = match !args.layer.is_empty() && args.layer.iter().all(is_encoder) {
            true => passage.source.as_deref().unwrap_or_default(),
            false => &passage.tokens,
        };
        let last = looking.len() - 1;
        // Machines are given numbers; a page only where they ask for one.
        let page = (!args.json || args.out.is_some()).then(|| page_path(args, subject));
        let holder = if page.is_some() { Holder::Page } else { Holder::Memory };
        inside::attention_size(model, &passage, &args.layer, holder)?;
        if let Some(place) = args.place.filter(|place| *place > last) {
            bail!("--place: there is no token {place}; the text has 0 to {last}");
        }
        let tokenizer = subject.tokenizer()?;
        let text = |id: &u32| match tokenizer.token_bytes(*id) {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => format!("<{id}>"),
        };
        Ok(Self {
            tokens: passage.tokens.iter().map(text).collect(),
            source: passage.source.iter().flatten().map(text).collect(),
            layers: args.layer.clone(),
            head: args.head,
            place: args.place.unwrap_or(last),
            page,
            passage,
        })
    }

    /// Looks, and writes the page.
    pub(super) fn look<B: GptBackend>(
        &self,
        model: &Model<B>,
        title: &str,
    ) -> anyhow::Result<Seen> {
        let layers = inside::attention(model, &self.passage, &self.layers);
        if let Some(path) = &self.page {
            let page =
                inside::attention_page(title, &layers, &self.tokens, &self.source, self.place)?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(write_error(folder))?;
            }
            files::write_whole(path, |file| file.write_all(page.as_bytes()))
                .context("the page cannot be written; --out names another place")?;
        }
        Ok(Seen { layers, page: self.page.clone() })
    }

    pub(super) fn write(
        &self,
        out: &mut impl Write,
        seen: &Seen,
        style: Style,
    ) -> std::io::Result<()> {
        let (tokens, source, place) = (&self.tokens[..], &self.source[..], self.place);
        let selection = Selection { tokens, source, head: self.head, place };
        let printed = self.printed(&seen.layers);
        inside::write_maps(out, &printed, selection, style)?;
        if printed.len() < seen.layers.len() {
            writeln!(
                out,
                "{} layers more; --layer and --head choose\n",
                seen.layers.len() - printed.len()
            )?;
        }
        // The last layer decides what comes next.
        if let Some(layer) = printed.last() {
            inside::write_steps(out, layer, self.head.unwrap_or(0), selection, style)?;
        }
        if let Some(page) = &seen.page {
            writeln!(out, "\npage: {}", page.display())?;
        }
        Ok(())
    }

    fn printed(&self, layers: &[AttentionLayer]) -> Vec<AttentionLayer> {
        let maps = |layer: &AttentionLayer| if self.head.is_some() { 1 } else { layer.heads.len() };
        let is_few = layers.iter().map(maps).sum::<usize>() <= MOST_MAPS;
        if is_few || !self.layers.is_empty() {
            return layers.to_vec();
        }
        let last = layers.len() - 1;
        let mut chosen = vec![0, last / 2, last];
        chosen.dedup();
        chosen.into_iter().map(|layer| layers[layer].clone()).collect()
    }
}

/// Where the page is to be.
fn page_path(args: &InspectArgs, subject: &Subject) -> PathBuf {
    let name = match subject.step {
        Some(step) => format!("step-{step:08}-attention.html"),
        None => format!("{}-attention.html", subject.name()),
    };
    let is_folder =
        |path: &Path| path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator);
    match (&args.out, &subject.run) {
        (Some(path), _) if is_folder(path) => path.join(name),
        (Some(path), _) => path.clone(),
        (None, Some(run)) => run.path().join("inspections").join(name),
        (None, None) => PathBuf::from(name),
    }
}
