//! Attention step by step, against the model's own attention and against its masks' definitions.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use burn::tensor::Tensor;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashMap;

use emberlm::backend::GptBackend;
use emberlm::config::{Architecture, ModelConfig};
use emberlm::model::{Observer, Output, Part};
use emberlm::report::inside::{
    AttentionLayer, Holder, Passage, Selection, TooLarge, attention, attention_page,
    attention_size, write_maps, write_steps,
};
use emberlm::report::terminal::Style;

use crate::inspect::all_options;
use crate::on_each_backend;
use crate::options::{SEQUENCES, SOURCES, model, with};
use crate::support::{Inner, floats};

fn passage(config: &ModelConfig) -> Passage {
    let source = (config.architecture == Architecture::EncoderDecoder).then(|| SOURCES[0].to_vec());
    Passage { source, tokens: SEQUENCES[0].to_vec() }
}

/// Keeps what comes out of every part.
#[derive(Default)]
struct Outputs {
    open: RefCell<Vec<String>>,
    found: RefCell<HashMap<String, Vec<f32>>>,
}

impl<B: GptBackend> Observer<B> for Outputs {
    fn enter(&self, part: Part, _input: &[usize]) {
        self.open.borrow_mut().push(part.to_string());
    }

    fn leave(&self, output: Output<B>) -> Tensor<B, 2> {
        let path = self.open.borrow().join(".");
        self.open.borrow_mut().pop();
        self.found.borrow_mut().insert(path, floats(output.rows.clone().into_data()));
        output.rows
    }
}

fn outputs<B: GptBackend>(
    model: &emberlm::model::Model<B>,
    passage: &Passage,
    device: &B::Device,
) -> HashMap<String, Vec<f32>> {
    let outputs = Outputs::default();
    let row = |tokens: &Vec<u32>| {
        let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
        let shape = [1, ids.len()];
        Tensor::from_data(burn::tensor::TensorData::new(ids, shape), device)
    };
    let lengths = [passage.source.as_ref().map_or(0, Vec::len)];
    let source = passage.source.as_ref().map(|source| (row(source), &lengths[..]));
    model.observe(row(&passage.tokens), source, &outputs);
    outputs.found.into_inner()
}

#[track_caller]
fn close(found: f64, expected: f64, size: f64, what: &str) {
    // f32 keeps seven digits of sums of a few dozen numbers.
    let tolerance = 1e-5 * (1.0 + size);
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
}

/// Everything that is shown of a layer follows from what the model was given, and ends in what the
/// model gave.
fn check(
    layer: &AttentionLayer,
    config: &ModelConfig,
    own: &HashMap<String, Vec<f32>>,
    what: &str,
) {
    let (t, s, k, d) = (layer.queries, layer.keys, layer.head_dim, config.d_model);
    let what = format!("{what}: {}", layer.path);
    let causal = layer.path.starts_with("decoder") && !layer.is_cross;
    let window = config.window(layer.layer).filter(|_| !layer.is_cross);
    let heads = &layer.heads;
    assert_eq!((heads.len(), layer.key_heads), (config.n_heads, config.n_kv_heads()), "{what}");
    for (number, head) in heads.iter().enumerate() {
        assert_eq!(head.key_head, number / (config.n_heads / config.n_kv_heads()), "{what}");
        for row in 0..t {
            let weights = &head.weights[row * s..][..s];
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{what}: head {number}, row {row} sums to {sum}");
            let mut exponentials = Vec::new();
            for (key, weight) in weights.iter().enumerate() {
                let distance = row.abs_diff(key);
                let seen = !(causal && key > row) && window.is_none_or(|window| distance < window);
                let score = f64::from(head.scores[row * s + key]);
                assert_eq!(score > f64::NEG_INFINITY, seen, "{what}: {row} sees {key}");
                assert_eq!(*weight > 0.0, seen, "{what}: {row} sees {key}");
                let dot = |place: usize| {
                    f64::from(head.query[row * k + place]) * f64::from(head.key[key * k + place])
                };
                let product: f64 = (0..k).map(dot).sum();
                close(f64::from(head.products[row * s + key]), product, product.abs(), &what);
                let scale = config.attention.scale.unwrap_or((k as f64).sqrt().recip());
                let mut expected = product * scale;
                if let Some(cap) = config.attention.soft_cap {
                    expected = cap * (expected / cap).tanh();
                }
                expected -= head.slope.unwrap_or(0.0) * distance as f64;
                if seen {
                    close(score, expected, expected.abs(), &what);
                    exponentials.push(expected.exp());
                } else {
                    exponentials.push(0.0);
                }
            }
            let total: f64 = exponentials.iter().sum();
            for (weight, exponential) in weights.iter().zip(exponentials) {
                close(f64::from(*weight), exponential / total, 1.0, &what);
            }
            // The weights times the values are what the model's own operation gave.
            for column in 0..k {
                let value =
                    |key: usize| f64::from(weights[key]) * f64::from(head.value[key * k + column]);
                let sum: f64 = (0..s).map(value).sum();
                close(f64::from(head.attended[row * k + column]), sum, 10.0, &what);
            }
        }
        assert!(head.difference < 1e-4, "{what}: {}", head.difference);
    }
    let alibi = config.position == emberlm::config::PositionConfig::Alibi {};
    assert_eq!(heads[0].slope.is_some(), alibi && !layer.is_cross, "{what}");
    // What all heads write, with the bias, is what the model went on with.
    assert_eq!(layer.output, own[&layer.path], "{what}");
    assert_eq!(layer.output.len(), t * d, "{what}");
    for place in 0..t * d {
        let parts = heads.iter().map(|head| f64::from(head.contribution[place]));
        let sum = parts.sum::<f64>() + f64::from(layer.bias[place % d]);
        close(f64::from(layer.output[place]), sum, 10.0, &what);
    }
    // And what attention gave is what the heads are, beside each other.
    let attend = &own[&format!("{}.attend", layer.path)];
    for (number, head) in heads.iter().enumerate() {
        assert_eq!(head.attended, attend[number * t * k..][..t * k], "{what}: head {number}");
    }
}

#[test]
fn the_steps_lead_to_what_the_model_computes() {
    on_each_backend!(|device: B| {
        for change in all_options() {
            let config = with(change.clone());
            let model = model::<Inner<B>>(&config, &device);
            let passage = passage(&config);
            let layers = attention(&model, &passage, &[]);
            let own = outputs(&model, &passage, &device);
            let count = match config.architecture {
                Architecture::EncoderDecoder => 2 + 2 * 2,
                _ => 2,
            };
            assert_eq!(layers.len(), count, "{change}");
            for layer in &layers {
                check(layer, &config, &own, &change.to_string());
            }
            let second = attention(&model, &passage, &[1]);
            assert!(second.iter().all(|layer| layer.layer == 1) && second.len() == count / 2);
        }
    });
}

/// Rotary positions, by hand: with the identity for queries and keys the product of two tokens that
/// are alike falls with their distance as the mean of the cosines of its angles.
#[test]
fn rotations_are_in_the_queries_and_keys_that_are_shown() {
    on_each_backend!(|device: B| {
        let config = with(json!({ "position": { "kind": "rotary" }, "n_heads": 3 }));
        let model = model::<Inner<B>>(&config, &device);
        let passage = Passage { source: None, tokens: vec![4; 6] };
        let layers = attention(&model, &passage, &[0]);
        for head in &layers[0].heads {
            let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            // All tokens are alike: rotation keeps their lengths, and products hang on distances.
            let lengths: Vec<f64> = head.query.chunks(4).map(norm).collect();
            lengths.iter().for_each(|length| close(*length, lengths[0], lengths[0], "length"));
            assert_ne!(head.query[..4], head.query[4..8]);
            let product = |row: usize, key: usize| f64::from(head.products[row * 6 + key]);
            for distance in 0..5 {
                for row in distance..6 {
                    let expected = product(distance, 0);
                    close(product(row, row - distance), expected, expected.abs(), "distance");
                }
            }
        }
    });
}

/// The text of an element of a page.
fn element<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page.find(&format!("<script id=\"{id}\"")).unwrap();
    let text = &page[start..];
    &text[text.find('>').unwrap() + 1..text.find("</script>").unwrap()]
}

#[test]
fn a_page_has_all_numbers_and_nothing_gets_out_of_its_place() {
    on_each_backend!(|device: B| {
        for change in [
            json!({ "n_kv_heads": 1 }),
            json!({ "architecture": "encoder" }),
            json!({ "architecture": "encoder-decoder" }),
        ] {
            let config = with(change);
            let model = model::<Inner<B>>(&config, &device);
            let passage = passage(&config);
            let layers = attention(&model, &passage, &[]);
            let texts = |ids: &[u32]| -> Vec<String> {
                ids.iter().map(|id| format!("</script>{id}")).collect()
            };
            let tokens = texts(&passage.tokens);
            let source = texts(passage.source.as_deref().unwrap_or_default());
            let page = attention_page("<b>run</b>", &layers, &tokens, &source, 2).unwrap();
            assert_eq!(page.matches("</script>").count(), 2);
            assert!(page.contains("<title>&lt;b&gt;run&lt;/b&gt;: attention</title>"));
            // Nothing is fetched: the only address is the name of the icon's format.
            assert_eq!(
                page.matches("http").count(),
                page.matches("http://www.w3.org/2000/svg").count() + 1
            );
            assert!(
                page.contains(
                    "http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'"
                )
            );
            assert!(["src=", "@import", "fetch(", "url("].iter().all(|it| !page.contains(it)));
            let facts: Value = serde_json::from_str(element(&page, "data")).unwrap();
            assert_eq!(facts["tokens"], json!(tokens));
            assert_eq!(facts["source"], json!(source));
            assert_eq!(facts["place"], 2);
            // Beside a decoder an encoder reads the source, alone the text.
            for (layer, facts) in layers.iter().zip(facts["layers"].as_array().unwrap()) {
                let is_of_source = !source.is_empty() && layer.path.starts_with("encoder");
                assert_eq!(facts["ofSource"], is_of_source, "{}", layer.path);
            }
            assert_eq!(facts["layers"].as_array().unwrap().len(), layers.len());

            // As the page reads them: keys and values of each key head, then all of each head.
            let bytes = BASE64_STANDARD.decode(facts["numbers"].as_str().unwrap()).unwrap();
            let size = attention_size(&config, &passage, &[], Holder::Page).unwrap();
            assert_eq!(size, bytes.len());
            let numbers: Vec<f32> = bytes
                .chunks(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            let mut rest = &numbers[..];
            let mut next = |expected: &[f32]| {
                let (found, others) = rest.split_at(expected.len());
                rest = others;
                assert_eq!(found, expected);
            };
            for (layer, facts) in layers.iter().zip(facts["layers"].as_array().unwrap()) {
                assert_eq!(facts["path"], layer.path);
                for number in 0..layer.key_heads {
                    let shared = layer.heads.iter().find(|head| head.key_head == number).unwrap();
                    next(&shared.key);
                    next(&shared.value);
                }
                for head in &layer.heads {
                    next(&head.query);
                    next(&head.products);
                    next(&head.scores);
                    next(&head.weights);
                    next(&head.attended);
                    next(&head.contribution);
                }
                next(&layer.bias);
                next(&layer.output);
            }
            assert!(rest.is_empty());
        }
    });
}

#[test]
fn a_page_that_no_browser_opens_is_refused() {
    on_each_backend!(|device: B| {
        let config = with(json!({}));
        let layers = attention(&model::<Inner<B>>(&config, &device), &passage(&config), &[0]);
        let mut layer = layers[0].clone();
        layer.output = vec![0.0; (48 << 18) + 1];
        let page = attention_page("much", &[layer], &["a".to_owned()], &[], 0);
        let refused = TooLarge { layers: 1, tokens: 1, mib: 48, holder: Holder::Page };
        assert_eq!(page.unwrap_err().to_string(), refused.to_string());
    });
    // Before anything is computed: a key and a value of width 4, shared by three heads of which each
    // has a query, what is attended, three matrices of scores and a part of the output; bias, output.
    let config = with(json!({ "n_kv_heads": 1, "n_heads": 3, "d_model": 12 }));
    let long = Passage { source: None, tokens: vec![1; 1300] };
    let t = 1300;
    let layer = 2 * t * 4 + 3 * (2 * t * 4 + 3 * t * t + t * 12) + 12 + t * 12;
    let mib = |layers: usize| (4 * layers * layer) >> 20;
    for (asked, layers) in [(&[][..], 2), (&[1], 1)] {
        let refused = attention_size(&config, &long, asked, Holder::Page).unwrap_err().to_string();
        let expected = TooLarge { layers, tokens: t, mib: mib(layers), holder: Holder::Page };
        assert_eq!(refused, expected.to_string());
        // Without a page there is room for them.
        let bytes = attention_size(&config, &long, asked, Holder::Memory).unwrap();
        assert_eq!(bytes, 4 * layers * layer);
    }
    let shorter = Passage { tokens: vec![1; 1000], ..long.clone() };
    assert!(attention_size(&config, &shorter, &[], Holder::Page).is_err());
    attention_size(&config, &shorter, &[0], Holder::Page).unwrap();
    // And for less than a GiB only.
    let longer = Passage { tokens: vec![1; 4000], ..long };
    let refused = attention_size(&config, &longer, &[], Holder::Memory).unwrap_err().to_string();
    assert!(refused.contains("more than are computed at a time; shorten the text"), "{refused}");
}

/// A target of nine tokens, and a source of seven.
#[test]
fn rows_and_columns_have_the_texts_of_what_looks_and_is_looked_at() {
    on_each_backend!(|device: B| {
        let config = with(json!({ "architecture": "encoder-decoder" }));
        let model = model::<Inner<B>>(&config, &device);
        let layers = attention(&model, &passage(&config), &[]);
        let texts = |letter, count: usize| -> Vec<String> {
            (0..count).map(|place| format!("{letter}{place}")).collect()
        };
        let (tokens, source) = (texts('t', 9), texts('s', 7));
        let selection = Selection { tokens: &tokens, source: &source, head: None, place: 8 };
        let mut seen = Vec::new();
        for layer in &layers {
            let mut text = Vec::new();
            write_steps(&mut text, layer, 0, selection, Style { width: 120, ..Style::PLAIN })
                .unwrap();
            let text = String::from_utf8(text).unwrap();
            let (stack, attention) =
                (layer.path.split('.').next().unwrap(), layer.path.rsplit('.').next().unwrap());
            // The encoder's last token is the seventh.
            let (looking, keys) = match (stack, attention) {
                ("encoder", _) => ("what token 6, \"s6\"", &source),
                (_, "cross_attention") => ("what token 8, \"t8\"", &source),
                _ => ("what token 8, \"t8\"", &tokens),
            };
            assert!(text.contains(looking), "{}: {text}", layer.path);
            let found: Vec<&str> =
                text.lines().filter_map(|line| line.split('"').nth(1)).skip(1).collect();
            assert_eq!(found, *keys, "{}: {text}", layer.path);
            seen.push((stack, attention));
        }
        let encoder = ("encoder", "attention");
        let decoder = [("decoder", "attention"), ("decoder", "cross_attention")];
        assert_eq!(seen, [&[encoder; 2][..], &decoder, &decoder].concat());
    });
}

#[test]
fn maps_fit_into_eighty_columns() {
    on_each_backend!(|device: B| {
        for change in [json!({}), json!({ "architecture": "encoder-decoder" })] {
            let config = with(change);
            let model = model::<Inner<B>>(&config, &device);
            let passage = passage(&config);
            let layers = attention(&model, &passage, &[]);
            let tokens = vec!["\n".to_owned(); 9];
            let source = vec!["word".to_owned(); 7];
            let selection = Selection { tokens: &tokens, source: &source, head: None, place: 4 };
            for style in
                [Style::PLAIN, Style { color: true, width: 80 }, Style { width: 4, ..Style::PLAIN }]
            {
                let mut text = Vec::new();
                write_maps(&mut text, &layers, selection, style).unwrap();
                let text = String::from_utf8(text).unwrap();
                assert_eq!(text.contains('\x1b'), style.color);
                let plain = console::strip_ansi_codes(&text).into_owned();
                let wide = if style.width == 4 { 80 } else { style.width };
                assert!(plain.lines().all(|line| line.chars().count() <= wide), "{plain}");
                assert_eq!(text.contains("the largest of 3 by 3"), style.width == 4, "{text}");
            }
            for layer in &layers {
                let mut text = Vec::new();
                write_steps(&mut text, layer, 1, selection, Style::PLAIN).unwrap();
                let text = String::from_utf8(text).unwrap();
                assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
                let masked =
                    if layer.path.starts_with("decoder") && !layer.is_cross { 4 } else { 0 };
                assert_eq!(text.matches("masked").count(), masked, "{text}");
            }
        }
        // One row by hand: the second token of a causal map sees two, the first one only.
        let config = with(json!({}));
        let layers = attention(&model::<Inner<B>>(&config, &device), &passage(&config), &[0]);
        let tokens = vec!["a".to_owned(); 9];
        let selection = Selection { tokens: &tokens, source: &[], head: Some(0), place: 0 };
        let mut text = Vec::new();
        write_maps(&mut text, &layers, selection, Style::PLAIN).unwrap();
        let text = String::from_utf8(text).unwrap();
        let rows: Vec<&str> = text.lines().skip_while(|line| *line != "head 0").skip(1).collect();
        assert_eq!(rows[0], "█", "{text}");
        assert!((0..9).all(|row| rows[row].chars().count() == row + 1), "{text}");
    });
}
