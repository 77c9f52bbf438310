//! A family of checkpoints that the library does not know: how another project names its settings,
//! its tensors and its tokenizer is said here, and the model becomes a run as with `emberlm
//! import`.
//!
//! ```text
//! cargo run --example custom_family
//! ```
//!
//! The other project is made up. It keeps `config.json`, `model.safetensors` with layers as
//! `torch.nn.Linear` has them, and `letters.txt`, the characters in the order of their ids.

use anyhow::bail;
use burn::tensor::{Int, Tensor, TensorData};
use emberlm::artifact::{Run, write_tensors};
use emberlm::backend::{self, GptBackend, Job, TrainBackend};
use emberlm::config::{self, ModelConfig, NormConfig, NormKind, PositionConfig, TokenizerConfig};
use emberlm::interop::{Family, ForeignModel, InteropError, Names, Theirs, WEIGHT_AND_BIAS};
use emberlm::model::{Gpt, Initializer, Model, tensors};
use emberlm::tokenizer::{CharacterTokenizer, Tokenizer};
use serde::Deserialize;
use serde_json::json;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let outcome = run(folder.path())?;
    println!("imported {} parameters; text comes back: {:?}", outcome.parameters, outcome.text);
    println!("logits differ by at most {:e}", outcome.difference);
    Ok(())
}

// The family: its settings, its tensors, its tokenizer.

pub const SCRIBE: Family = Family {
    model_type: "scribe",
    class: "ScribeModel",
    prefix: "",
    head: "reader.weight",
    names: &NAMES,
    read: |settings| ScribeConfig::deserialize(settings)?.model_config(),
    write: None,
};

/// Ours on the left, with `*` for the number of the layer; theirs on the right.
const NAMES: Names = Names {
    modules: &[
        ("embedding.token", Theirs::Table("letters")),
        ("decoder.blocks.*.attention_norm", Theirs::Norm("page.*.calm_1")),
        // Their queries, keys and values stand side by side in our one projection.
        (
            "decoder.blocks.*.attention.qkv",
            Theirs::Linear(&["page.*.ask", "page.*.label", "page.*.tell"]),
        ),
        ("decoder.blocks.*.attention.output", Theirs::Linear(&["page.*.merge"])),
        ("decoder.blocks.*.feed_forward_norm", Theirs::Norm("page.*.calm_2")),
        ("decoder.blocks.*.feed_forward.up", Theirs::Linear(&["page.*.wide"])),
        ("decoder.blocks.*.feed_forward.down", Theirs::Linear(&["page.*.narrow"])),
        ("decoder.final_norm", Theirs::Norm("calm")),
        ("head", Theirs::Linear(&["reader"])),
    ],
    base: None,
    norm: WEIGHT_AND_BIAS,
    norm_less_one: false,
};

#[derive(Deserialize)]
struct ScribeConfig {
    letters: usize,
    width: usize,
    pages: usize,
    voices: usize,
    longest: usize,
    voice_sharing: Option<bool>,
}

impl ScribeConfig {
    fn model_config(&self) -> Result<ModelConfig, InteropError> {
        // What the library has no word for is refused by name, rather than imported wrongly.
        if self.voice_sharing == Some(true) {
            return Err(InteropError::option("voice_sharing", true, "voices must be apart"));
        }
        let mut config = ModelConfig::new(self.width, self.pages, self.voices, self.longest);
        config.vocab_size = Some(self.letters);
        config.position = PositionConfig::rotary(10_000.0);
        config.norm = NormConfig { kind: NormKind::Rms, ..NormConfig::default() };
        config.bias = false;
        config.tied_head = false;
        Ok(config)
    }
}

/// The model in a folder, with the tokenizer that the library would not find.
pub fn open(folder: &Path) -> anyhow::Result<ForeignModel> {
    let mut model = ForeignModel::open_as(folder, &SCRIBE)?;
    let letters = std::fs::read_to_string(folder.join("letters.txt"))?;
    model.tokenizer = CharacterTokenizer::from_characters(&letters)?.saved();
    model.tokenizer_config = TokenizerConfig::Character {};
    Ok(model)
}

// To see that it works: a model of theirs, made of one of ours by hand.

#[derive(Debug)]
pub struct Outcome {
    pub parameters: usize,
    /// Text that was encoded and decoded by the imported run.
    pub text: String,
    /// Between the logits of the model that was written and of the one that was imported.
    pub difference: f32,
}

pub fn run(folder: &Path) -> anyhow::Result<Outcome> {
    backend::dispatch(backend::choose(None)?, Example { folder })?
}

struct Example<'a> {
    folder: &'a Path,
}

impl Job for Example<'_> {
    type Output = anyhow::Result<Outcome>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Outcome> {
        let theirs = self.folder.join("theirs");
        std::fs::create_dir(&theirs)?;
        let ours = write_theirs::<B::InnerBackend>(&theirs, &device)?;

        let mut model = open(&theirs)?;
        let config = config::resolve(json!({
            "name": "scribe", "model": model.config, "tokenizer": model.tokenizer_config,
        }))?;
        let shapes = model.shapes().to_vec();
        let run = Run::create_with_model(
            self.folder,
            &config,
            model.tokenizer.clone(),
            &shapes,
            |index| model.read(index).map(Cow::Owned),
        )?;

        let tokenizer = run.tokenizer()?;
        let ids = tokenizer.encode("a bad cab")?;
        let Model::Gpt(imported) = run.load_model::<B::InnerBackend>(&device)? else {
            bail!("the family has decoders only");
        };
        let row = TensorData::new(ids.iter().map(|id| *id as i32).collect(), [1, ids.len()]);
        let row = Tensor::<B::InnerBackend, 2, Int>::from_data(row, &device);
        let difference = (imported.forward(row.clone()) - ours.forward(row)).abs().max();
        Ok(Outcome {
            parameters: shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum(),
            text: tokenizer.decode(&ids),
            difference: difference.into_data().iter::<f32>().sum(),
        })
    }
}

/// Writes a model as the other project does, and returns it as the library has it.
fn write_theirs<B: GptBackend>(folder: &Path, device: &B::Device) -> anyhow::Result<Gpt<B>> {
    let letters = " abcd";
    let settings = json!({
        "model_type": "scribe", "letters": letters.len(), "width": 16, "pages": 2, "voices": 2,
        "longest": 12,
    });
    std::fs::write(folder.join("config.json"), settings.to_string())?;
    std::fs::write(folder.join("letters.txt"), letters)?;
    let config = SCRIBE.model_config(&settings)?;
    let ours = Gpt::<B>::new("ours", &config, letters.len(), Initializer::seeded(7), device);

    let mut theirs: Vec<(String, TensorData)> = Vec::new();
    for (name, data) in tensors(&ours) {
        let (layer, part) = match name.strip_prefix("decoder.blocks.") {
            Some(rest) => rest.split_once('.').unwrap_or_default(),
            None => ("", name.as_str()),
        };
        let named = |name: &str| format!("page.{layer}.{name}.weight");
        match part {
            "embedding.token" => theirs.push(("letters.weight".into(), data)),
            "attention_norm.weight" => theirs.push((named("calm_1"), data)),
            "attention.qkv.weight" => {
                for (index, name) in ["ask", "label", "tell"].into_iter().enumerate() {
                    theirs.push((named(name), turned(&data, index * 16, 16)));
                }
            }
            "attention.output.weight" => theirs.push((named("merge"), turned(&data, 0, 16))),
            "feed_forward_norm.weight" => theirs.push((named("calm_2"), data)),
            "feed_forward.up.weight" => theirs.push((named("wide"), turned(&data, 0, 64))),
            "feed_forward.down.weight" => theirs.push((named("narrow"), turned(&data, 0, 16))),
            "decoder.final_norm.weight" => theirs.push(("calm.weight".into(), data)),
            "head.weight" => theirs.push(("reader.weight".into(), turned(&data, 0, letters.len()))),
            other => bail!("{other} has no name among theirs"),
        }
    }
    write_tensors(&folder.join("model.safetensors"), &theirs, HashMap::new())?;
    Ok(ours)
}

/// Some columns of `[rows, columns]`, as rows.
fn turned(data: &TensorData, first: usize, count: usize) -> TensorData {
    let (rows, columns) = (data.shape[0], data.shape[1]);
    let values: Vec<f32> = data.iter::<f32>().collect();
    let column = |column: usize| (0..rows).map(move |row| row * columns + column);
    let turned = (first..first + count).flat_map(column).map(|place| values[place]).collect();
    TensorData::new::<f32, _>(turned, [count, rows])
}
