//! What decoding keeps of the positions that it has seen.

use burn::tensor::{Int, Tensor, TensorData};
use emberlm::backend::GptBackend;
use emberlm::config::{self, ModelConfig};
use emberlm::model::{Cache, Gpt, Initializer};
use serde_json::json;

use crate::on_each_backend;
use crate::support::{Inner, assert_close, floats, numbers};

const VOCAB_SIZE: usize = 17;
const CONTEXT_LENGTH: usize = 150;

/// More positions than a cache has room for from the beginning, seen by fewer heads than there are.
fn config(position: &str) -> ModelConfig {
    let model = json!({ "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "context_length": CONTEXT_LENGTH, "vocab_size": VOCAB_SIZE,
        "position": { "kind": position } });
    config::resolve(json!({ "name": "decoding", "model": model })).unwrap().model
}

/// Two rows of a batch.
fn rows(seed: u64, length: usize) -> [Vec<i32>; 2] {
    let row = |seed| {
        let ids = numbers(length, seed).into_iter();
        ids.map(|x| ((x + 1.0) * 8.49) as i32).collect()
    };
    [row(seed), row(seed + 1)]
}

fn batch<B: GptBackend>(rows: &[&[i32]], device: &B::Device) -> Tensor<B, 2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), device)
}

/// Reads on from a cache, a token at a time, and holds what comes last to what all of the text
/// gives at once.
fn read_on<B: GptBackend>(
    model: &Gpt<B>,
    mut cache: Cache<B>,
    seen: &[Vec<i32>; 2],
    more: &[Vec<i32>; 2],
    what: &str,
) -> Cache<B> {
    let device = model.device();
    let mut logits = Vec::new();
    for place in 0..more[0].len() {
        let tokens = batch(&more.each_ref().map(|row| &row[place..place + 1]), &device);
        logits = floats(model.decode(tokens, &mut cache).unwrap().into_data());
    }
    let whole = [0, 1].map(|row| [&seen[row][..], &more[row][..]].concat());
    let all = model.forward(batch(&whole.each_ref().map(|row| &row[..]), &device)); // [2, S, V]
    let length = whole[0].len();
    let last = floats(all.narrow(1, length - 1, 1).into_data());
    let last: Vec<f64> = last.into_iter().map(f64::from).collect();
    // Sums of another blocking; logits here are below one.
    assert_close(&logits, &last, 1e-5, what);
    assert_eq!(cache.len(), length);
    cache
}

#[test]
fn a_cache_grows_with_its_text_and_its_clones_go_their_own_ways() {
    on_each_backend!(|device: B| {
        let model: Gpt<Inner<B>> =
            Gpt::new("a", &config("rotary"), VOCAB_SIZE, Initializer::seeded(3), &device);
        let (prompt, a, b) = (rows(1, 5), rows(3, 140), rows(5, 70));
        let mut cache = model.new_cache();
        let tokens = batch(&prompt.each_ref().map(|row| &row[..]), &device);
        model.decode(tokens, &mut cache).unwrap();
        let clone = cache.clone();
        // Beyond the first room, and the next.
        let long = read_on(&model, cache, &prompt, &a, "the first");
        let short = read_on(&model, clone.clone(), &prompt, &b, "the second");
        let again = read_on(&model, clone, &prompt, &a, "the first again");
        // They have gone on, and are still what they were.
        let after = |seen: &[Vec<i32>; 2], more: &[Vec<i32>; 2]| {
            [0, 1].map(|row| [&seen[row][..], &more[row][..]].concat())
        };
        let (one, more) = (rows(7, 1), rows(9, 5));
        read_on(&model, short, &after(&prompt, &b), &one, "the second, later");
        read_on(&model, long, &after(&prompt, &a), &more, "the first, to the end");
        read_on(&model, again, &after(&prompt, &a), &one, "the first again, later");
    });
}

/// Prompts of one length join one after the other.
#[test]
fn many_rows_have_no_more_room_each_than_one() {
    const LENGTH: usize = 70;
    on_each_backend!(|device: B| {
        for (attention, room) in
            [(json!({}), 2 * LENGTH), (json!({ "window": 50 }), 50), (json!({ "window": 90 }), 90)]
        {
            let model = json!({ "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
                "context_length": 4000, "vocab_size": VOCAB_SIZE, "attention": attention,
                "position": { "kind": "rotary" } });
            let config = config::resolve(json!({ "name": "decoding", "model": model })).unwrap();
            let model: Gpt<Inner<B>> =
                Gpt::new("a", &config.model, VOCAB_SIZE, Initializer::seeded(3), &device);
            // Keys and values, of two layers, two heads, and four numbers of four bytes.
            let of_position = 2 * 2 * 2 * 4 * 4;
            let (mut cache, mut texts) = (model.new_cache(), Vec::new());
            for count in 1..=9 {
                let [text, _] = rows(count as u64, LENGTH);
                let mut own = model.new_cache();
                model.decode(batch(&[&text], &device), &mut own).unwrap();
                cache.append(own);
                texts.push(text);
                let least = count * LENGTH.min(room) * of_position;
                let most = count.next_power_of_two() * room * of_position;
                let bytes = cache.bytes();
                assert!((least..=most).contains(&bytes), "{attention}, {count} rows: {bytes}");
            }
            let logits = model.decode(batch(&[&[5][..]; 9], &device), &mut cache).unwrap();
            let logits = floats(logits.into_data());
            for (row, mut text) in texts.into_iter().enumerate() {
                text.push(5);
                let all = model.forward(batch(&[&text], &device)); // [1, S, V]
                let last = floats(all.narrow(1, LENGTH, 1).into_data());
                let last: Vec<f64> = last.into_iter().map(f64::from).collect();
                let found = &logits[row * VOCAB_SIZE..][..VOCAB_SIZE];
                // Sums of another blocking; logits here are below one.
                assert_close(found, &last, 1e-5, &format!("{attention}, row {row}"));
            }
        }
    });
}

#[test]
fn what_is_kept_of_positions_is_what_would_be_made_anew() {
    on_each_backend!(|device: B| {
        for kind in ["rotary", "sinusoidal"] {
            let make = || -> Gpt<Inner<B>> {
                Gpt::new("a", &config(kind), VOCAB_SIZE, Initializer::seeded(3), &device)
            };
            let model = make();
            for length in [3, 9, 1, 5, 40] {
                let rows = rows(1, length);
                let tokens = || batch(&rows.each_ref().map(|row| &row[..]), &device);
                let kept = floats(model.clone().forward(tokens()).into_data());
                let anew = floats(make().forward(tokens()).into_data());
                let anew: Vec<f64> = anew.into_iter().map(f64::from).collect();
                // Logits below one; of another position they would be hundredths off.
                assert_close(&kept, &anew, 1e-6, &format!("{kind} {length}"));
            }
        }
    });
}

#[test]
fn new_positions_are_put_into_their_room_and_nobody_elses() {
    on_each_backend!(|device: B| {
        type I<B> = Inner<B>;
        let shapes = [
            [1, 1, 1, 1, 1, 0],
            [2, 3, 7, 5, 2, 4],
            [1, 4, 64, 16, 1, 63],
            [3, 1, 9, 33, 9, 0],
            [11, 2, 5, 7, 1, 4],
            [150, 2, 6, 3, 2, 3],
        ];
        for (number, [b, g, room, width, t, start]) in shapes.into_iter().enumerate() {
            let old = numbers(b * g * room * width, number as u64);
            let new = numbers(b * t * g * width, 50 + number as u64);
            let before = Tensor::<I<B>, 4>::from_data(
                TensorData::new(old.clone(), [b, g, room, width]),
                &device,
            );
            // As heads come of a projection: their numbers are apart.
            let turned = Tensor::<I<B>, 4>::from_data(
                TensorData::new(new.clone(), [b, t, g, width]),
                &device,
            );
            // Each entry elsewhere, in a row and at a position of its own.
            let places: Vec<[usize; 2]> =
                (0..b).map(|entry| [b - 1 - entry, start - start.min(entry % 3)]).collect();
            let mut expected = old.clone();
            for (place, x) in new.iter().enumerate() {
                let (entry, position) = (place / (t * g * width), place / (g * width) % t);
                let (head, column) = (place / width % g, place % width);
                let [row, start] = places[entry];
                expected[((row * g + head) * room + start + position) * width + column] = *x;
            }
            let put = |room| <I<B>>::put(room, turned.clone().swap_dims(1, 2), &places);
            let shared = put(before.clone());
            assert_eq!(floats(shared.into_data()), expected);
            assert_eq!(floats(before.to_data()), old, "somebody else's");
            assert_eq!(floats(put(before).into_data()), expected, "its own");
            // Of a room that is a part of something larger.
            let wide = [old.clone(), old.clone()].concat();
            let wide = TensorData::new(wide, [2 * b, g, room, width]);
            let part = Tensor::<I<B>, 4>::from_data(wide, &device).narrow(0, b, b);
            assert_eq!(floats(put(part).into_data()), expected, "a part");
        }
    });
}
