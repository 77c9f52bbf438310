use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::data::{DataError, read_rows, read_text};

/// Questions whose answers are known, as lm-evaluation-harness puts them, without examples before
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    /// How a description goes on, of four endings (Zellers et al. 2019).
    Hellaswag,
    /// School exams in science, the easy and the hard questions (Clark et al. 2018).
    ArcEasy,
    ArcChallenge,
    /// How something is done, of two ways (Bisk et al. 2020).
    Piqa,
    /// The last word of a passage (Paperno et al. 2016).
    Lambada,
}

/// Why a file has no questions. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{}, line {line}: {reason}", .path.display())]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("{} has no questions", .path.display())]
    NoQuestions { path: PathBuf },
    #[error(
        "{} has {labels} labels for {questions} questions; give the file that belongs to them",
        .path.display()
    )]
    Labels { path: PathBuf, labels: usize, questions: usize },
}

/// What is asked, and what can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Of the file, counted from one.
    pub line: usize,
    pub context: String,
    /// Each follows the context after a space. Of LAMBADA there is one: the word.
    pub choices: Vec<String>,
    /// Which of them is right.
    pub answer: usize,
}

impl Benchmark {
    pub const ALL: [Self; 5] =
        [Self::Hellaswag, Self::ArcEasy, Self::ArcChallenge, Self::Piqa, Self::Lambada];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hellaswag => "hellaswag",
            Self::ArcEasy => "arc-easy",
            Self::ArcChallenge => "arc-challenge",
            Self::Piqa => "piqa",
            Self::Lambada => "lambada",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|benchmark| benchmark.name() == name)
    }

    /// Whether a word is to be guessed, and not a choice made.
    pub fn is_last_word(self) -> bool {
        self == Self::Lambada
    }

    /// How it is asked and counted, in a sentence or two.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Hellaswag => {
                "no examples; \"ACTIVITY: CTX_A Ctx_b\" without what is in brackets, then a space and each ending"
            }
            Self::ArcEasy | Self::ArcChallenge => {
                "no examples; \"Question: QUESTION\\nAnswer:\", then a space and each choice"
            }
            Self::Piqa => {
                "no examples; \"Question: GOAL\\nAnswer:\", then a space and each solution"
            }
            Self::Lambada => {
                "no examples; a passage up to its last space, then the space and the word"
            }
        }
    }

    /// The questions of a file, JSON lines as its authors or the Hugging Face Hub have them, or
    /// the Hub's parquet; of PIQA with the labels in `NAME-labels.lst` beside `NAME.jsonl`, where
    /// they are not inside; of LAMBADA also plain text, a passage a line.
    ///
    /// # Errors
    /// A file that cannot be read, or the first line that is something else.
    pub fn read(self, path: &Path) -> Result<Vec<Question>, BenchmarkError> {
        let labels = match self {
            Self::Piqa => Labels::beside(path)?,
            _ => None,
        };
        let ends_in = |ending| path.extension().is_some_and(|extension| extension == ending);
        let text;
        let records: Vec<(usize, Record)> = if ends_in("parquet") {
            (1..).zip(read_rows(path)?.into_iter().map(Record::Row)).collect()
        } else {
            text = read_text(path)?;
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
            lines.map(|(line, content)| (line, Record::Line(content))).collect()
        };
        let mut questions = Vec::new();
        for (line, record) in records {
            let number = questions.len();
            let read = match (self, record) {
                (Self::Lambada, Record::Line(text)) if ends_in("txt") => last_word(text),
                (Self::Hellaswag, record) => record.parse().and_then(Hellaswag::question),
                (Self::ArcEasy | Self::ArcChallenge, record) => {
                    record.parse().and_then(Arc::question)
                }
                (Self::Piqa, record) => record.parse().and_then(|piqa: Piqa| {
                    piqa.question(labels.as_ref().and_then(|labels| labels.list.get(number)))
                }),
                (Self::Lambada, record) => {
                    record.parse().and_then(|Lambada { text }| last_word(&text))
                }
            };
            let (context, choices, answer) =
                read.map_err(|reason| BenchmarkError::Line { path: path.into(), line, reason })?;
            questions.push(Question { line, context, choices, answer });
        }
        if questions.is_empty() {
            return Err(BenchmarkError::NoQuestions { path: path.into() });
        }
        match labels {
            Some(Labels { path, list }) if list.len() != questions.len() => {
                Err(BenchmarkError::Labels { path, labels: list.len(), questions: questions.len() })
            }
            _ => Ok(questions),
        }
    }
}

impl fmt::Display for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A context, choices, and which of them is right.
type Parts = (String, Vec<String>, usize);

/// What a question is made of.
enum Record<'a> {
    Line(&'a str),
    /// Of a table.
    Row(Value),
}

impl Record<'_> {
    fn parse<T: DeserializeOwned>(self) -> Result<T, String> {
        let parsed = match self {
            Self::Line(line) => serde_json::from_str(line),
            Self::Row(row) => serde_json::from_value(row),
        };
        parsed.map_err(|error| error.to_string())
    }
}

/// A label as a number or as digits, which the Hub has.
#[derive(Deserialize)]
#[serde(untagged)]
enum Label {
    Number(i64),
    Text(String),
}

impl Label {
    /// Which of `choices` it is.
    fn answer(&self, choices: usize) -> Result<usize, String> {
        let label = match self {
            Self::Number(number) => usize::try_from(*number).ok(),
            Self::Text(text) => text.trim().parse().ok(),
        };
        label
            .filter(|label| *label < choices)
            .ok_or_else(|| format!("the label must be a number from 0 to {}", choices - 1))
    }
}

#[derive(Deserialize)]
struct Hellaswag {
    activity_label: String,
    ctx_a: String,
    ctx_b: String,
    endings: Vec<String>,
    label: Option<Label>,
}

impl Hellaswag {
    fn question(self) -> Result<Parts, String> {
        let context =
            format!("{}: {} {}", self.activity_label, self.ctx_a, capitalized(&self.ctx_b));
        let choices: Vec<String> =
            self.endings.iter().map(|ending| without_brackets(ending)).collect();
        at_least_two(&choices)?;
        let label = self.label.as_ref();
        let label = label.ok_or("there is no `label`; take the validation file, which has them")?;
        let answer = label.answer(choices.len())?;
        Ok((without_brackets(&context), choices, answer))
    }
}

fn at_least_two(choices: &[String]) -> Result<(), String> {
    match choices.len() {
        0 | 1 => Err("there must be two choices or more".into()),
        _ => Ok(()),
    }
}

/// As Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(characters.as_str().to_lowercase().chars()).collect()
}

/// Without the marks that WikiHow's part of HellaSwag has, as lm-evaluation-harness removes them.
fn without_brackets(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut clean = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        // A dot in that regular expression is no line break.
        match after.split_once(']').filter(|(inside, _)| !inside.contains('\n')) {
            Some((_, after)) => {
                clean += before;
                rest = after;
            }
            None => {
                clean += &rest[..before.len() + 1];
                rest = after;
            }
        }
    }
    (clean + rest).replace("  ", " ")
}

#[derive(Deserialize)]
struct Arc {
    question: ArcQuestion,
    /// Beside a question that is a plain text.
    choices: Option<ArcColumns>,
    #[serde(rename = "answerKey")]
    answer_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ArcQuestion {
    /// As the Hub has it.
    Text(String),
    /// As its authors have it.
    Whole { stem: String, choices: Vec<ArcChoice> },
}

#[derive(Deserialize)]
struct ArcChoice {
    text: String,
    label: String,
}

#[derive(Deserialize)]
struct ArcColumns {
    text: Vec<String>,
    label: Vec<String>,
}

impl Arc {
    fn question(self) -> Result<Parts, String> {
        let (question, texts, labels): (String, Vec<String>, Vec<String>) =
            match (self.question, self.choices) {
                (ArcQuestion::Whole { stem, choices }, _) => {
                    let (texts, labels) =
                        choices.into_iter().map(|choice| (choice.text, choice.label)).unzip();
                    (stem, texts, labels)
                }
                (ArcQuestion::Text(question), Some(choices)) => {
                    (question, choices.text, choices.label)
                }
                (ArcQuestion::Text(_), None) => return Err("there are no `choices`".into()),
            };
        at_least_two(&texts)?;
        let key = self.answer_key.filter(|key| !key.is_empty());
        let key = key.ok_or("there is no `answerKey`; take a file that has one")?;
        let answer =
            labels.iter().position(|label| *label == key).filter(|place| *place < texts.len());
        let answer = answer.ok_or_else(|| format!("no choice has the label `{key}`"))?;
        Ok((format!("Question: {question}\nAnswer:"), texts, answer))
    }
}

#[derive(Deserialize)]
struct Piqa {
    goal: String,
    sol1: String,
    sol2: String,
    label: Option<Label>,
}

impl Piqa {
    fn question(self, beside: Option<&Label>) -> Result<Parts, String> {
        let label = self.label.as_ref().or(beside);
        let label = label.ok_or("there is no label; put NAME-labels.lst beside NAME.jsonl")?;
        let answer = label.answer(2)?;
        Ok((format!("Question: {}\nAnswer:", self.goal), vec![self.sol1, self.sol2], answer))
    }
}

/// The labels of PIQA's authors, one a line.
struct Labels {
    path: PathBuf,
    list: Vec<Label>,
}

impl Labels {
    /// Those of `NAME.jsonl`, if there are some.
    fn beside(path: &Path) -> Result<Option<Self>, BenchmarkError> {
        let Some(stem) = path.file_stem() else { return Ok(None) };
        let path = path.with_file_name(format!("{}-labels.lst", stem.to_string_lossy()));
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_text(&path)?;
        let list = text.lines().filter(|line| !line.trim().is_empty());
        let list = list.map(|line| Label::Text(line.into())).collect();
        Ok(Some(Self { path, list }))
    }
}

#[derive(Deserialize)]
struct Lambada {
    text: String,
}

fn last_word(text: &str) -> Result<Parts, String> {
    match text.rsplit_once(' ') {
        Some((context, word)) if !word.trim().is_empty() && !context.trim().is_empty() => {
            Ok((context.into(), vec![word.into()], 0))
        }
        _ => Err("a passage of two words or more is needed, without a space at its end".into()),
    }
}
