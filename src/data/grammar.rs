//! Unambiguous probabilistic grammars with memory: a context-free skeleton whose texts draw
//! entities, keep them by name, and write them again later.

use rand::{Rng, RngExt};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a grammar file.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum GrammarError {
    #[error("the grammar is not valid JSON: {0}")]
    Syntax(String),
    #[error("rule `{rule}`: the brace in `{text}` is not closed")]
    OpenBrace { rule: String, text: String },
    #[error("rule `{rule}`: there is no rule `{name}`")]
    NoRule { rule: String, name: String },
    #[error("rule `{rule}`: there is no list `{list}` whose every entry has a form `{form}`")]
    NoForm { rule: String, list: String, form: String },
    #[error("rule `{rule}` can be reached before `{name}` is drawn")]
    NotDrawn { rule: String, name: String },
    #[error("rule `{rule}` has no alternative of positive weight")]
    NoAlternative { rule: String },
    #[error("rule `{rule}` contains itself")]
    Recursive { rule: String },
    #[error("rule `{rule}`: alternatives {first} and {second} can begin alike")]
    Ambiguous { rule: String, first: usize, second: usize },
    #[error("rule `{rule}` writes `{name}` by its `{form}`, where one entry begins like another")]
    UnclearDraw { rule: String, name: String, form: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    entities: BTreeMap<String, Vec<BTreeMap<String, String>>>,
    rules: BTreeMap<String, Vec<AlternativeText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlternativeText {
    weight: u32,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Symbol {
    Literal(String),
    Rule(usize),
    /// Draws an entry of a list, keeps it under a name, writes one of its forms.
    Draw {
        list: usize,
        name: String,
        /// The kept entry that may not be drawn again.
        except: Option<String>,
        form: String,
    },
    /// Writes a form of an entry that was drawn before.
    Recall {
        name: String,
        form: String,
    },
}

struct Alternative {
    probability: f64,
    symbols: Vec<Symbol>,
}

struct Rule {
    name: String,
    alternatives: Vec<Alternative>,
}

/// A checked grammar.
pub struct Grammar {
    lists: Vec<Vec<BTreeMap<String, String>>>,
    rules: Vec<Rule>,
    start: usize,
    /// The list that each kept name is drawn from.
    names: BTreeMap<String, usize>,
}

/// Entries drawn so far: name -> place in its list.
type Kept = BTreeMap<String, usize>;

impl Grammar {
    /// Reads a grammar whose first rule is called `start`, and proves that it is unambiguous:
    /// any two alternatives of a rule differ in their first characters, whatever they draw.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(json: &str, start: &str) -> Result<Self, GrammarError> {
        let document: Document =
            serde_json::from_str(json).map_err(|error| GrammarError::Syntax(error.to_string()))?;
        let list_names: Vec<String> = document.entities.keys().cloned().collect();
        let rule_names: Vec<String> = document.rules.keys().cloned().collect();
        let mut grammar = Self {
            lists: document.entities.into_values().collect(),
            rules: Vec::new(),
            start: 0,
            names: BTreeMap::new(),
        };
        let reader = Reader { list_names: &list_names, rule_names: &rule_names };
        grammar.start = reader.rule("(start)", start)?;
        for (name, texts) in document.rules {
            let total: u32 = texts.iter().map(|text| text.weight).sum();
            if total == 0 {
                return Err(GrammarError::NoAlternative { rule: name });
            }
            let alternatives = texts
                .iter()
                .map(|text| {
                    Ok(Alternative {
                        probability: f64::from(text.weight) / f64::from(total),
                        symbols: reader.symbols(&name, &text.text)?,
                    })
                })
                .collect::<Result<_, GrammarError>>()?;
            grammar.rules.push(Rule { name, alternatives });
        }
        grammar.check_names()?;
        grammar.check_order(grammar.start, &BTreeSet::new(), &mut Vec::new())?;
        grammar.check_unambiguous()?;
        Ok(grammar)
    }

    /// Draws one text.
    pub fn generate(&self, rng: &mut impl Rng) -> String {
        let mut text = String::new();
        self.expand(self.start, rng, &mut Kept::new(), &mut text);
        text
    }

    fn expand(&self, rule: usize, rng: &mut impl Rng, kept: &mut Kept, text: &mut String) {
        let alternatives = &self.rules[rule].alternatives;
        let mut threshold: f64 = rng.random();
        let chosen = alternatives
            .iter()
            .find(|alternative| {
                threshold -= alternative.probability;
                threshold < 0.0
            })
            .or(alternatives.last());
        for symbol in chosen.map_or(&[][..], |alternative| &alternative.symbols) {
            match symbol {
                Symbol::Literal(literal) => text.push_str(literal),
                Symbol::Rule(rule) => self.expand(*rule, rng, kept, text),
                Symbol::Recall { name, form } => text.push_str(self.form(kept, name, form)),
                Symbol::Draw { list, name, except, form } => {
                    let taken = except.as_ref().map(|name| kept[name]);
                    let choices = self.lists[*list].len() - usize::from(taken.is_some());
                    let mut entry = rng.random_range(0..choices);
                    if taken.is_some_and(|taken| entry >= taken) {
                        entry += 1;
                    }
                    kept.insert(name.clone(), entry);
                    text.push_str(self.form(kept, name, form));
                }
            }
        }
    }

    fn form(&self, kept: &Kept, name: &str, form: &str) -> &str {
        &self.lists[self.names[name]][kept[name]][form]
    }

    /// The entropy of one text, in nats: exact, since choices are independent of each other but
    /// for the entries that may not be drawn twice, and those only shorten a uniform draw by one.
    pub fn entropy(&self) -> f64 {
        self.expected(self.start, &|alternative| -alternative.probability.ln(), &|symbol| {
            match symbol {
                Symbol::Draw { list, except, .. } => {
                    ((self.lists[*list].len() - usize::from(except.is_some())) as f64).ln()
                }
                _ => 0.0,
            }
        })
    }

    /// The expected number of characters in a text: exact, by linearity, since every draw is
    /// uniform over its list (also where an entry is excepted that was itself drawn uniformly).
    pub fn expected_length(&self) -> f64 {
        self.expected(self.start, &|_| 0.0, &|symbol| match symbol {
            Symbol::Literal(literal) => literal.chars().count() as f64,
            Symbol::Rule(_) => 0.0,
            Symbol::Draw { name, form, .. } | Symbol::Recall { name, form } => {
                let list = &self.lists[self.names[name]];
                let total: usize = list.iter().map(|entry| entry[form].chars().count()).sum();
                total as f64 / list.len() as f64
            }
        })
    }

    fn expected(
        &self,
        rule: usize,
        of_alternative: &dyn Fn(&Alternative) -> f64,
        of_symbol: &dyn Fn(&Symbol) -> f64,
    ) -> f64 {
        let value = |alternative: &Alternative| {
            let symbols = alternative.symbols.iter().map(|symbol| match symbol {
                Symbol::Rule(rule) => self.expected(*rule, of_alternative, of_symbol),
                symbol => of_symbol(symbol),
            });
            of_alternative(alternative) + symbols.sum::<f64>()
        };
        self.rules[rule]
            .alternatives
            .iter()
            .filter(|alternative| alternative.probability > 0.0)
            .map(|alternative| alternative.probability * value(alternative))
            .sum()
    }

    /// Whether a text is one of the grammar's.
    pub fn accepts(&self, text: &str) -> bool {
        !self.derivations(text).is_empty()
    }

    /// The most bytes that a text can have.
    pub fn longest(&self) -> usize {
        self.longest_of(self.start)
    }

    fn longest_of(&self, rule: usize) -> usize {
        let of_symbol = |symbol: &Symbol| match symbol {
            Symbol::Literal(literal) => literal.len(),
            Symbol::Rule(rule) => self.longest_of(*rule),
            Symbol::Draw { name, form, .. } | Symbol::Recall { name, form } => {
                self.forms(name, form).map(str::len).max().unwrap_or(0)
            }
        };
        let alternatives = self.rules[rule].alternatives.iter();
        let lengths = alternatives.map(|it| it.symbols.iter().map(of_symbol).sum());
        lengths.max().unwrap_or(0)
    }

    /// A form of every entry that can be kept under a name; none under a name that no rule draws.
    pub fn forms(&self, name: &str, form: &str) -> impl Iterator<Item = &str> {
        let list = self.names.get(name).map(|list| &self.lists[*list]);
        list.into_iter().flatten().filter_map(move |entry| Some(entry.get(form)?.as_str()))
    }

    /// The log-probability of every derivation of a text, in nats. A text of the grammar has
    /// one, any other text none.
    pub fn derivations(&self, text: &str) -> Vec<f64> {
        let mut found = Vec::new();
        let start = [Symbol::Rule(self.start)];
        self.derive(&[&start], text, &mut Kept::new(), 0.0, &mut found);
        found
    }

    /// Matches what is left of the text against a stack of symbols, the innermost last.
    fn derive(
        &self,
        stack: &[&[Symbol]],
        text: &str,
        kept: &mut Kept,
        log_probability: f64,
        found: &mut Vec<f64>,
    ) {
        let Some((top, below)) = stack.split_last() else {
            if text.is_empty() {
                found.push(log_probability);
            }
            return;
        };
        let Some((symbol, rest)) = top.split_first() else {
            return self.derive(below, text, kept, log_probability, found);
        };
        let mut stack = below.to_vec();
        stack.push(rest);
        match symbol {
            Symbol::Literal(literal) => {
                if let Some(text) = text.strip_prefix(literal.as_str()) {
                    self.derive(&stack, text, kept, log_probability, found);
                }
            }
            Symbol::Recall { name, form } => {
                if let Some(text) = text.strip_prefix(self.form(kept, name, form)) {
                    self.derive(&stack, text, kept, log_probability, found);
                }
            }
            Symbol::Rule(rule) => {
                for alternative in &self.rules[*rule].alternatives {
                    let mut stack = stack.clone();
                    stack.push(&alternative.symbols);
                    let log_probability = log_probability + alternative.probability.ln();
                    self.derive(&stack, text, kept, log_probability, found);
                }
            }
            Symbol::Draw { list, name, except, form } => {
                let entries = &self.lists[*list];
                let taken = except.as_ref().map(|name| kept[name]);
                let choices = entries.len() - usize::from(taken.is_some());
                for (entry, forms) in entries.iter().enumerate() {
                    if taken == Some(entry) {
                        continue;
                    }
                    if let Some(text) = text.strip_prefix(forms[form].as_str()) {
                        let before = kept.insert(name.clone(), entry);
                        let log_probability = log_probability - (choices as f64).ln();
                        self.derive(&stack, text, kept, log_probability, found);
                        match before {
                            Some(before) => kept.insert(name.clone(), before),
                            None => kept.remove(name),
                        };
                    }
                }
            }
        }
    }

    /// Fills `names`, and checks that every form exists in every entry of its list.
    fn check_names(&mut self) -> Result<(), GrammarError> {
        for rule in &self.rules {
            for symbol in rule.alternatives.iter().flat_map(|alternative| &alternative.symbols) {
                if let Symbol::Draw { list, name, .. } = symbol {
                    self.names.insert(name.clone(), *list);
                }
            }
        }
        for rule in &self.rules {
            for symbol in rule.alternatives.iter().flat_map(|alternative| &alternative.symbols) {
                let (list, name, form) = match symbol {
                    Symbol::Draw { list, name, form, .. } => (Some(*list), name, form),
                    Symbol::Recall { name, form } => (self.names.get(name).copied(), name, form),
                    _ => continue,
                };
                let same_list = list == self.names.get(name).copied();
                let has_form = list.is_some_and(|list| {
                    let entries = &self.lists[list];
                    entries.len() > 1 && entries.iter().all(|entry| entry.contains_key(form))
                });
                if !same_list || !has_form {
                    return Err(GrammarError::NoForm {
                        rule: rule.name.clone(),
                        list: name.clone(),
                        form: form.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks that nothing is recalled before it is drawn, on any path, and that no rule contains
    /// itself. Returns the names that are drawn on every path through the rule.
    fn check_order(
        &self,
        rule: usize,
        drawn: &BTreeSet<String>,
        open: &mut Vec<usize>,
    ) -> Result<BTreeSet<String>, GrammarError> {
        let name_of_rule = &self.rules[rule].name;
        if open.contains(&rule) {
            return Err(GrammarError::Recursive { rule: name_of_rule.clone() });
        }
        open.push(rule);
        let mut after: Option<BTreeSet<String>> = None;
        for alternative in &self.rules[rule].alternatives {
            let mut drawn = drawn.clone();
            for symbol in &alternative.symbols {
                let needed = match symbol {
                    Symbol::Rule(rule) => {
                        drawn = self.check_order(*rule, &drawn, open)?;
                        None
                    }
                    Symbol::Recall { name, .. } => Some(name),
                    Symbol::Draw { except, .. } => except.as_ref(),
                    Symbol::Literal(_) => None,
                };
                if let Some(name) = needed.filter(|name| !drawn.contains(*name)) {
                    return Err(GrammarError::NotDrawn {
                        rule: name_of_rule.clone(),
                        name: name.clone(),
                    });
                }
                if let Symbol::Draw { name, .. } = symbol {
                    drawn.insert(name.clone());
                }
            }
            after = Some(match after {
                Some(others) => others.intersection(&drawn).cloned().collect(),
                None => drawn,
            });
        }
        open.pop();
        Ok(after.unwrap_or_default())
    }

    fn check_unambiguous(&self) -> Result<(), GrammarError> {
        for rule in &self.rules {
            for (second, b) in rule.alternatives.iter().enumerate() {
                for (first, a) in rule.alternatives[..second].iter().enumerate() {
                    if !self.distinguishable(&a.symbols, &b.symbols) {
                        return Err(GrammarError::Ambiguous {
                            rule: rule.name.clone(),
                            first: first + 1,
                            second: second + 1,
                        });
                    }
                }
            }
            // A draw must be recognisable too: no form a prefix of another entry's.
            for symbol in rule.alternatives.iter().flat_map(|alternative| &alternative.symbols) {
                if let Symbol::Draw { list, name, form, .. } = symbol {
                    let forms: Vec<&String> =
                        self.lists[*list].iter().map(|entry| &entry[form]).collect();
                    let clash = forms.iter().enumerate().any(|(i, a)| {
                        forms.iter().enumerate().any(|(j, b)| i != j && a.starts_with(*b))
                    });
                    if clash {
                        return Err(GrammarError::UnclearDraw {
                            rule: rule.name.clone(),
                            name: name.clone(),
                            form: form.clone(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the first characters of two sequences always tell them apart, whatever entries
    /// their symbols write; a name that both begin by recalling is the same entry in both.
    fn distinguishable(&self, a: &[Symbol], b: &[Symbol]) -> bool {
        let mut names: Vec<&String> = Vec::new();
        for symbol in [a.first(), b.first()].into_iter().flatten() {
            if let Symbol::Recall { name, .. } = symbol {
                names.push(name);
            }
        }
        names.dedup();
        let mut assignments = vec![Kept::new()];
        for name in names {
            assignments = assignments
                .into_iter()
                .flat_map(|kept| {
                    (0..self.lists[self.names[name]].len()).map(move |entry| {
                        let mut kept = kept.clone();
                        kept.insert(name.clone(), entry);
                        kept
                    })
                })
                .collect();
        }
        assignments.iter().all(|kept| {
            let (a, b) = (self.beginnings(a, kept), self.beginnings(b, kept));
            a.iter().all(|a| b.iter().all(|b| differ(a, b)))
        })
    }

    /// The strings that a sequence can begin with, up to its first unknown entry.
    fn beginnings(&self, symbols: &[Symbol], kept: &Kept) -> Vec<String> {
        let mut beginning = String::new();
        for symbol in symbols {
            match symbol {
                Symbol::Literal(literal) => beginning.push_str(literal),
                Symbol::Draw { name, form, .. } | Symbol::Recall { name, form }
                    if kept.contains_key(name) =>
                {
                    beginning.push_str(self.form(kept, name, form));
                }
                Symbol::Draw { name, form, .. } | Symbol::Recall { name, form } => {
                    let list = &self.lists[self.names[name]];
                    return list
                        .iter()
                        .map(|entry| format!("{beginning}{}", entry[form]))
                        .collect();
                }
                Symbol::Rule(rule) => {
                    let alternatives = &self.rules[*rule].alternatives;
                    let inner = alternatives
                        .iter()
                        .flat_map(|alternative| self.beginnings(&alternative.symbols, kept));
                    return inner.map(|inner| format!("{beginning}{inner}")).collect();
                }
            }
        }
        vec![beginning]
    }
}

/// Neither is a prefix of the other.
fn differ(a: &str, b: &str) -> bool {
    !a.starts_with(b) && !b.starts_with(a)
}

struct Reader<'a> {
    list_names: &'a [String],
    rule_names: &'a [String],
}

impl Reader<'_> {
    fn rule(&self, rule: &str, name: &str) -> Result<usize, GrammarError> {
        self.rule_names
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| GrammarError::NoRule { rule: rule.into(), name: name.into() })
    }

    fn symbols(&self, rule: &str, text: &str) -> Result<Vec<Symbol>, GrammarError> {
        let mut symbols = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            if !literal.is_empty() {
                symbols.push(Symbol::Literal(literal.into()));
            }
            let (inside, after) = after
                .split_once('}')
                .ok_or_else(|| GrammarError::OpenBrace { rule: rule.into(), text: text.into() })?;
            symbols.push(self.symbol(rule, inside)?);
            rest = after;
        }
        if !rest.is_empty() {
            symbols.push(Symbol::Literal(rest.into()));
        }
        Ok(symbols)
    }

    /// `rule`, `name.form`, `name=list.form` or `name=list-except.form`.
    fn symbol(&self, rule: &str, inside: &str) -> Result<Symbol, GrammarError> {
        let Some((head, form)) = inside.split_once('.') else {
            return Ok(Symbol::Rule(self.rule(rule, inside)?));
        };
        let form = form.to_string();
        let Some((name, list)) = head.split_once('=') else {
            return Ok(Symbol::Recall { name: head.into(), form });
        };
        let (list, except) = match list.split_once('-') {
            Some((list, except)) => (list, Some(except.to_string())),
            None => (list, None),
        };
        let list = self.list_names.iter().position(|known| known == list).ok_or_else(|| {
            GrammarError::NoForm { rule: rule.into(), list: list.into(), form: form.clone() }
        })?;
        Ok(Symbol::Draw { list, name: name.into(), except, form })
    }
}
