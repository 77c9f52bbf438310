use super::{ContinuationScore, Question};

/// How many questions a model has answered right, by taking the choice that it finds likeliest.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceScore {
    pub questions: usize,
    /// By the log-likelihood of the whole choice: `acc` of lm-evaluation-harness.
    pub right: usize,
    /// By that log-likelihood over the bytes of the choice, the space before it not counted. Of
    /// ASCII text this is lm-evaluation-harness's `acc_norm`, which counts characters.
    pub right_normalised: usize,
    /// The share of right answers that guessing gives.
    pub chance: f64,
}

impl ChoiceScore {
    /// `scores` has those of all choices, question after question.
    pub fn new(questions: &[Question], scores: &[ContinuationScore]) -> Self {
        let mut score =
            Self { questions: questions.len(), right: 0, right_normalised: 0, chance: 0.0 };
        let mut scores = scores.iter();
        for question in questions {
            let found: Vec<f64> =
                scores.by_ref().take(question.choices.len()).map(|s| s.log_likelihood).collect();
            let over_bytes: Vec<f64> = found
                .iter()
                .zip(&question.choices)
                .map(|(sum, choice)| sum / choice.len().max(1) as f64)
                .collect();
            score.right += usize::from(likeliest(&found) == Some(question.answer));
            score.right_normalised += usize::from(likeliest(&over_bytes) == Some(question.answer));
            score.chance += 1.0 / question.choices.len() as f64 / questions.len() as f64;
        }
        score
    }
}

/// The first of the highest; none where one is not a number, as of a model that has diverged.
fn likeliest(scores: &[f64]) -> Option<usize> {
    let better = |best: usize, next: usize| if scores[next] > scores[best] { next } else { best };
    let are_numbers = scores.iter().all(|score| !score.is_nan());
    (0..scores.len()).reduce(better).filter(|_| are_numbers)
}

/// How well a model guesses words that end passages.
#[derive(Debug, Clone, PartialEq)]
pub struct LastWordScore {
    pub words: usize,
    /// Those whose every token was the likeliest.
    pub exact: usize,
    /// The exponential of the mean of the words' negative log-likelihoods.
    pub perplexity: f64,
}

impl LastWordScore {
    pub fn new(scores: &[ContinuationScore]) -> Self {
        let nats: f64 = scores.iter().map(|score| -score.log_likelihood).sum();
        Self {
            words: scores.len(),
            exact: scores.iter().filter(|score| score.greedy).count(),
            perplexity: (nats / scores.len() as f64).exp(),
        }
    }
}
