use serde::Serialize;

/// All that was measured of a run's model at one time.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub run: String,
    /// Of the checkpoint.
    pub step: usize,
    pub backend: String,
    pub version: String,
    pub date: String,
    pub results: Vec<Outcome>,
}

/// What came out of one text, one benchmark or some stories.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    pub task: String,
    /// The file or the split.
    pub data: String,
    /// What they are stored as: `f32` or `int8`.
    pub weights: String,
    /// How it was asked and counted.
    pub protocol: String,
    /// Tokens, questions or stories.
    pub examples: usize,
    pub measures: Vec<Measure>,
}

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measure {
    pub name: String,
    pub value: f64,
    /// Where it is a share of independent answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
}

impl Measure {
    pub fn new(name: &str, value: f64) -> Self {
        Self { name: name.into(), value, standard_error: None }
    }

    /// A share `p` of `n`, with the standard error `sqrt(p (1 - p) / n)` of a binomial.
    pub fn share(name: &str, part: usize, whole: usize) -> Self {
        let share = part as f64 / whole as f64;
        let error = (share * (1.0 - share) / whole as f64).sqrt();
        Self { standard_error: Some(error), ..Self::new(name, share) }
    }
}

impl Report {
    /// A table with a line a measure, as spreadsheets read it.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let head = [
            "run",
            "step",
            "date",
            "task",
            "data",
            "weights",
            "protocol",
            "examples",
            "measure",
            "value",
            "standard_error",
        ];
        let step = self.step.to_string();
        let written = writer.write_record(head).and_then(|()| {
            let measures = self
                .results
                .iter()
                .flat_map(|found| found.measures.iter().map(move |m| (found, m)));
            for (found, measure) in measures {
                writer.write_record([
                    self.run.as_str(),
                    &step,
                    &self.date,
                    &found.task,
                    &found.data,
                    &found.weights,
                    &found.protocol,
                    &found.examples.to_string(),
                    &measure.name,
                    &measure.value.to_string(),
                    &measure.standard_error.map(|error| error.to_string()).unwrap_or_default(),
                ])?;
            }
            Ok(())
        });
        written.expect("memory takes all that is written, and records are of one length");
        let bytes = writer.into_inner().expect("memory takes all that is written");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
