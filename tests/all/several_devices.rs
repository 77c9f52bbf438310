//! Training on several devices, whose place threads of one processor take here: each has its copy of
//! the model and its part of the micro-batches. What comes out must be what one device makes of all.

use burn_train::Interrupter;
use emberlm::backend::{self, GptBackend, Job, LeftAlone, Member, TrainBackend};
use emberlm::config::{self, RunConfig};
use emberlm::data::{Corpus, Example, TokenBatch};
use emberlm::model::{Initializer, Model, tensors};
use emberlm::train::{
    Best, Checkpoint, DeviceFailure, DevicesError, Display, Guard, LanguageModel, Loggers,
    ModelOptimizer, NoStep, Progress, RunKeeper, RunState, SaveError, Step, Stepper, Training,
    check_devices, train,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::command_line::refused;
use crate::engine::Losses;
use crate::on_each_backend;
use crate::support::{Inner, cpu_backends, floats, numbers, on_cpu_backends, relative_error};

const VOCAB_SIZE: usize = 11;
const LENGTH: usize = 8;

/// A small decoder, and steps of six micro-batches of two rows, which two and three devices share.
fn configuration(changes: Value) -> RunConfig {
    let mut value = json!({
        "name": "small",
        "model": {
            "d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": LENGTH,
            "vocab_size": VOCAB_SIZE,
        },
        "train": {
            "batch_size": 2, "accumulation": 6, "clip_norm": 0.5,
            "optimizer": { "kind": "sgd", "momentum": 0.9, "weight_decay": 0.1 },
            "schedule": { "kind": "constant", "learning_rate": 0.3, "warmup_steps": 2 },
        },
    });
    merge(&mut value, changes);
    config::resolve(value).unwrap()
}

fn merge(value: &mut Value, changes: Value) {
    match (value, changes) {
        // What has a kind is something else with another one.
        (Value::Object(object), Value::Object(changes)) if !changes.contains_key("kind") => {
            for (key, change) in changes {
                merge(object.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change,
    }
}

/// A row of tokens that the rows around it do not tell.
fn example(number: usize) -> Example {
    let row: Vec<u32> = numbers(LENGTH + 1, number as u64 + 1)
        .into_iter()
        .map(|x| ((x + 1.0) * 0.5 * VOCAB_SIZE as f32) as u32 % VOCAB_SIZE as u32)
        .collect();
    Example {
        source: None,
        input: row[..LENGTH].to_vec(),
        target: row[1..].to_vec(),
        asked: None,
        documents: None,
    }
}

/// Batches of so many rows, of which a step has so many.
fn batches(rows: usize, a_step: usize) -> impl Iterator<Item = TokenBatch> {
    (0..).map(move |number| {
        let examples: Vec<Example> = (number * rows..(number + 1) * rows).map(example).collect();
        TokenBatch::new(&examples, 1.0 / a_step as f64)
    })
}

/// What some steps on so many devices leave.
struct Trained {
    steps: Vec<Step>,
    /// Of each device, all numbers.
    weights: Vec<Vec<f32>>,
}

fn model<B: TrainBackend>(config: &RunConfig, device: &B::Device) -> LanguageModel<B> {
    let initializer = Initializer::seeded(2);
    let model = Model::new("small", &config.model, VOCAB_SIZE, initializer, device);
    LanguageModel::new(model, &config.model).trained_as(&config.train)
}

fn weights<B: TrainBackend>(model: &LanguageModel<B>) -> Vec<f32> {
    tensors(model).into_iter().flat_map(|(_, data)| floats(data)).collect()
}

fn on_devices<B: TrainBackend>(
    config: &RunConfig,
    device: &B::Device,
    devices: usize,
    batches: &mut dyn Iterator<Item = TokenBatch>,
    steps: usize,
) -> Trained {
    let model = model::<B>(config, device);
    let stepper = Stepper::<B>::of_run(model, config, device.clone()).unwrap();
    let mut stepper = stepper.with_devices(vec![device.clone(); devices - 1]);
    let (mut progress, mut guard) = (Progress::default(), Guard::default());
    let mut step = || stepper.step(batches, &mut progress, &mut guard).unwrap();
    let steps = (0..steps).map(|_| step()).collect();
    let models = stepper.into_models().unwrap();
    assert_eq!(models.len(), devices);
    Trained { steps, weights: models.iter().map(weights).collect() }
}

/// That a training is that of one device, and that all copies of its model are one.
#[track_caller]
fn assert_same(found: &Trained, expected: &Trained, what: &str) {
    for (step, (found, expected)) in found.steps.iter().zip(&expected.steps).enumerate() {
        assert_eq!(found.skipped.is_some(), expected.skipped.is_some(), "{what}, step {step}");
        let (found, expected) = (&found.output, &expected.output);
        assert_eq!(found.tokens, expected.tokens, "{what}, step {step}");
        assert_eq!(found.expert_tokens, expected.expert_tokens, "{what}, step {step}");
        // 1e-5, as for accumulated gradients: the same sums in another order.
        let error = (found.loss - expected.loss).abs();
        assert!(error < 1e-5, "{what}, step {step}: losses {error:e} apart");
        let error = (found.gradient_norm / expected.gradient_norm - 1.0).abs();
        assert!(error < 1e-4, "{what}, step {step}: norms {error:e} apart");
    }
    assert_eq!(found.steps.len(), expected.steps.len());
    for (rank, weights) in found.weights.iter().enumerate() {
        let same = weights.iter().zip(&found.weights[0]).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && !weights.is_empty(), "{what}: device {rank} has other weights");
    }
    let error = relative_error(&found.weights[0], &expected.weights[0]);
    assert!(error < 1e-5, "{what}: weights {error:e} apart");
}

#[test]
fn several_devices_train_as_one() {
    on_each_backend!(|device: B| {
        let config = configuration(json!({}));
        let run = |devices| on_devices::<B>(&config, &device, devices, &mut batches(2, 6), 6);
        let one = run(1);
        let losses: Vec<f64> = one.steps.iter().map(|step| step.output.loss).collect();
        assert!((losses[5] - losses[0]).abs() > 0.01, "weights change: {losses:?}");
        assert!(one.steps.iter().any(|step| step.output.gradient_norm > 0.5), "it clips");
        for devices in [2, 3] {
            let several = run(devices);
            assert_same(&several, &one, &format!("{devices} devices"));
            // The losses are those of the same weights, and are added up in the same order.
            let [found, expected] = [&several, &one].map(|run| run.steps[0].output.loss);
            assert!((found - expected).abs() < 1e-7, "{found}, not {expected}");
        }
    });
}

#[test]
fn experts_without_tokens_on_one_device_have_gradients_from_another() {
    on_each_backend!(|device: B| {
        let experts = json!({ "feed_forward": { "experts": { "count": 8, "per_token": 1 } } });
        let config = configuration(json!({
            "model": experts,
            "train": { "batch_size": 1, "accumulation": 2 },
        }));
        let run = |devices| on_devices::<B>(&config, &device, devices, &mut batches(1, 2), 4);
        let (one, two) = (run(1), run(2));
        let idle = one.steps[0].output.expert_tokens.iter().flatten().filter(|count| **count == 0);
        assert!(idle.count() > 0, "there is an expert that no device has a gradient for");
        assert_same(&two, &one, "experts");
    });
}

#[test]
fn a_device_may_have_nothing_to_do() {
    on_each_backend!(|device: B| {
        // Of one, two, three and then four micro-batches.
        let config = configuration(json!({
            "train": { "accumulation": 4, "batch_warmup": { "examples": 2, "steps": 3 } },
        }));
        let run = |devices| {
            let sizes = [1, 2, 3, 4, 4];
            let mut all = batches(2, 1);
            let shared = sizes.into_iter().flat_map(|count| std::iter::repeat_n(count, count));
            let mut shared = shared.map(|count| {
                let mut batch = all.next().unwrap();
                batch.share = 1.0 / count as f64;
                batch
            });
            on_devices::<B>(&config, &device, devices, &mut shared, 5)
        };
        let one = run(1);
        let tokens: Vec<usize> = one.steps.iter().map(|step| step.output.tokens).collect();
        assert_eq!(tokens, [16, 32, 48, 64, 64]);
        assert_same(&run(2), &one, "two devices");
        assert_same(&run(4), &one, "four devices");
    });
}

#[test]
fn all_devices_leave_out_the_same_steps() {
    on_each_backend!(|device: B| {
        let config = configuration(json!({
            "train": { "skip_spikes": { "z_score": 0.9, "window": 2 } },
        }));
        let run = |devices| on_devices::<B>(&config, &device, devices, &mut batches(2, 6), 10);
        let one = run(1);
        let skipped = one.steps.iter().filter(|step| step.skipped.is_some()).count();
        assert!((1..8).contains(&skipped), "{skipped} of ten steps are left out");
        assert_same(&run(3), &one, "three devices");
    });
}

#[test]
fn several_devices_drop_the_same_again() {
    on_each_backend!(|device: B| {
        let run = |devices, checkpointing| {
            let config = configuration(json!({
                "model": { "dropout": 0.2 },
                "train": { "gradient_checkpointing": checkpointing },
            }));
            on_devices::<B>(&config, &device, devices, &mut batches(2, 6), 4)
        };
        let losses = |run: &Trained| run.steps.iter().map(|step| step.output.loss).collect();
        let (first, again) = (run(2, false), run(2, false));
        let [first_losses, again_losses]: [Vec<f64>; 2] = [losses(&first), losses(&again)];
        assert_eq!(first_losses, again_losses);
        assert!(first.weights == again.weights, "other weights");
        let recomputed: Vec<f64> = losses(&run(2, true));
        for (kept, recomputed) in first_losses.iter().zip(&recomputed) {
            // Other masks change a loss of four by some hundredths.
            assert!((kept - recomputed).abs() < 1e-4, "{kept}, {recomputed}");
        }
        // Devices that have the same tokens do not drop the same.
        let first_loss = |devices: usize| {
            let config = configuration(json!({
                "model": { "dropout": 0.2 },
                "train": { "accumulation": devices },
            }));
            let examples = [example(0), example(1)];
            let mut same =
                std::iter::repeat_with(|| TokenBatch::new(&examples, 1.0 / devices as f64));
            on_devices::<B>(&config, &device, devices, &mut same, 1).steps[0].output.loss
        };
        let (one, two) = (first_loss(1), first_loss(2));
        assert!((one - two).abs() > 1e-3, "{one}, {two}");
    });
}

/// Keeps the last checkpoint's model and state.
type Kept<B> = Arc<Mutex<Option<(LanguageModel<B>, RunState)>>>;

struct InMemory<B: TrainBackend>(Kept<B>);

impl<B: TrainBackend> RunKeeper<B> for InMemory<B> {
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), SaveError> {
        *self.0.lock().unwrap() = Some((checkpoint.model.clone(), checkpoint.state.clone()));
        Ok(())
    }

    fn mark_best(&mut self, _: Best) -> Result<(), SaveError> {
        Ok(())
    }

    fn sample(&mut self, _: usize, _: &LanguageModel<Inner<B>>) -> Result<(), SaveError> {
        Ok(())
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_devices() {
    on_each_backend!(|device: B| {
        let config = |steps: usize| {
            configuration(json!({
                "data": { "kind": "stories", "train_stories": 20, "validation_stories": 2 },
                "model": { "vocab_size": 64 },
                "train": {
                    "steps": steps, "evaluate_every": 4, "accumulation": 2,
                    "optimizer": { "kind": "adamw", "beta1": 0.9, "beta2": 0.95 },
                    "schedule": { "learning_rate": 1e-2 },
                },
            }))
        };
        let corpus = Corpus::load(&config(8), None).unwrap();
        // Losses of all steps: those up to the fourth and those after it, on so many devices each.
        let run = |parts: [usize; 2], with_moments: bool| -> Vec<f64> {
            let mut model = LanguageModel::<B>::new(
                Model::new("small", &config(8).model, 64, Initializer::seeded(2), &device),
                &config(8).model,
            );
            let optimizer = || ModelOptimizer::new(&config(8).train.optimizer, &model).unwrap();
            let (first, other) = (optimizer(), optimizer());
            let mut state = RunState::default();
            let losses = Losses::default();
            for (part, devices) in parts.into_iter().enumerate() {
                let config = config(4 * (part + 1));
                let kept: Kept<B> = Arc::default();
                let goes_on = part == 0 || with_moments;
                train(Training {
                    config: &config,
                    corpus: &corpus,
                    model: model.clone(),
                    optimizer: if goes_on { first.clone() } else { other.clone() },
                    average: None,
                    state: state.clone(),
                    device: device.clone(),
                    further_devices: vec![device.clone(); devices - 1],
                    keeper: Box::new(InMemory(kept.clone())),
                    loggers: Loggers::new(vec![Box::new(losses.clone())]),
                    display: Display::Silent,
                    interrupter: Interrupter::new(),
                })
                .unwrap();
                (model, state) = kept.lock().unwrap().take().unwrap();
            }
            losses.all()
        };
        let apart = |found: &[f64], expected: &[f64]| {
            assert_eq!((found.len(), expected.len()), (8, 8));
            let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            differences.fold(0.0, f64::max)
        };
        let one = run([1, 1], true);
        for parts in [[1, 2], [2, 1]] {
            // 1e-4, as for PyTorch's losses with AdamW: its steps feed rounding back into the weights.
            let apart = apart(&run(parts, true), &one);
            assert!(apart < 1e-4, "{parts:?}: {apart:e} apart");
        }
        let apart = apart(&run([1, 2], false), &one);
        assert!(apart > 1e-3, "losses say whether the moments are there: {apart:e}");
    });
}

#[derive(Clone)]
struct Broken;

impl Job for Broken {
    type Output = ();

    fn run<B: TrainBackend>(self, device: B::Device) {
        for devices in [2, 3] {
            let config = configuration(json!({}));
            let stepper = Stepper::<B>::of_run(model(&config, &device), &config, device.clone());
            let further = vec![device.clone(); devices - 1];
            let mut stepper = stepper.unwrap().with_devices(further);
            let (mut progress, mut guard) = (Progress::default(), Guard::default());
            // A token that the model does not know, in the second step, on the last device.
            let mut number = 0;
            let mut batches = batches(2, 6).map(|batch| {
                number += 1;
                if number != 6 + devices {
                    return batch;
                }
                let mut unknown = example(0);
                unknown.input[3] = 1_000_000;
                TokenBatch::new(&[unknown], 1.0 / 6.0)
            });
            let mut step = || stepper.step(&mut batches, &mut progress, &mut guard);
            assert!(step().is_ok());
            for _ in 0..2 {
                let Err(NoStep::Failed(DeviceFailure { reason, .. })) = step() else {
                    panic!("a device has failed");
                };
                assert!(!reason.is_empty());
            }
            assert_eq!(progress.step, 1);
        }
    }
}

#[test]
fn a_device_that_fails_ends_the_training() {
    on_cpu_backends(Broken);
}

#[test]
fn a_step_without_data_ends_as_on_one_device() {
    on_each_backend!(|device: B| {
        let config = configuration(json!({}));
        let stepper = Stepper::<B>::of_run(model(&config, &device), &config, device.clone());
        let mut stepper = stepper.unwrap().with_devices(vec![device.clone()]);
        let (mut progress, mut guard) = (Progress::default(), Guard::default());
        let mut few = batches(2, 6).take(11);
        assert!(stepper.step(&mut few, &mut progress, &mut guard).is_ok());
        let end = stepper.step(&mut few, &mut progress, &mut guard);
        assert_eq!(end.map(drop), Err(NoStep::NoData));
        assert_eq!(stepper.into_models().unwrap().len(), 2);
    });
}

#[test]
fn sums_over_members_are_in_the_order_of_their_ranks() {
    on_each_backend!(|device: B| {
        // Of which sums in another order are other numbers.
        let parts: Vec<Vec<f32>> = (0..3)
            .map(|rank| numbers(1000, rank).iter().map(|x| x * 10f32.powi(rank as i32)).collect())
            .collect();
        let column = |order: [usize; 3], place: usize| {
            order[1..].iter().fold(parts[order[0]][place], |sum, rank| sum + parts[*rank][place])
        };
        let sums = |order| -> Vec<f32> { (0..1000).map(|place| column(order, place)).collect() };
        assert_ne!(sums([0, 1, 2]), sums([2, 1, 0]));
        let threads: Vec<_> = Member::group(3)
            .into_iter()
            .map(|member| {
                let (numbers, device) = (parts[member.rank()].clone(), device.clone());
                thread::spawn(move || {
                    let own =
                        burn::tensor::Tensor::<Inner<B>, 1>::from_floats(&numbers[..], &device);
                    floats(Inner::<B>::all_reduce(own, &member).unwrap().into_data())
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), sums([0, 1, 2]));
        }
    });
}

#[test]
fn nobody_waits_for_a_member_that_has_left() {
    let all = |members: Vec<Member>, meet: fn(Member) -> Result<usize, LeftAlone>| -> Vec<_> {
        let threads: Vec<_> =
            members.into_iter().map(|member| thread::spawn(move || meet(member))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).collect()
    };
    let outcome = all(Member::group(3), |member| {
        let mut sum = 0;
        for round in 0..1000 {
            let all = member.meet(round * 10 + member.rank())?;
            assert_eq!(
                all.iter().map(|it| **it).collect::<Vec<_>>(),
                [0, 1, 2].map(|rank| round * 10 + rank)
            );
            sum += *all[2];
        }
        Ok(sum)
    });
    assert_eq!(outcome, [Ok(4_997_000); 3]);

    // By its own word, by a panic, and before the others come.
    let outcome = all(Member::group(3), |member| match member.rank() {
        0 => Ok(7),
        _ => member.meet(1).map(|all| all.len()),
    });
    assert_eq!(outcome, [Ok(7), Err(LeftAlone), Err(LeftAlone)]);
    let outcome = all(Member::group(2), |member| match member.rank() {
        0 => panic!("a device is gone"),
        _ => member.meet(1).map(|all| all.len()),
    });
    assert_eq!(outcome, [Ok(0), Err(LeftAlone)]);
    let mut members = Member::group(2);
    drop(members.pop());
    assert_eq!(members[0].meet(()).map(drop), Err(LeftAlone));
}

#[test]
fn configurations_that_several_devices_cannot_share_are_refused() {
    let uneven = |accumulation, devices| {
        let config = configuration(json!({ "train": { "accumulation": accumulation } }));
        check_devices(&config, devices)
    };
    for (accumulation, devices) in [(1, 1), (3, 1), (2, 2), (6, 3)] {
        assert_eq!(uneven(accumulation, devices), Ok(()));
    }
    let expected =
        |devices, accumulation, next| Err(DevicesError::Uneven { devices, accumulation, next });
    assert_eq!(uneven(1, 2), expected(2, 1, 2));
    assert_eq!(uneven(4, 3), expected(3, 4, 6));
}

#[test]
fn devices_that_cannot_train_together_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let backend = cpu_backends()[0].name();
    let even = ["--set", "train.accumulation=2"];
    for (args, expected) in [
        (&["--devices", "0,1"][..], "set it to a multiple of 2, as by --set train.accumulation=2"),
        (&[&["--devices", "0,1"], &even[..]].concat(), "has no device 1; it has 0 ("),
        (&[&["--devices", "0,0"], &even[..]].concat(), "device 0 of backend"),
    ] {
        let args = [&["train", "--plain", "--backend", backend], args].concat();
        refused(folder.path(), &args, expected);
    }
    let both = ["train", "--devices", "0", "--device", "0"];
    let output = crate::command_line::emberlm(folder.path(), &both);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("'--devices <INDEX,..>' cannot be used with '--device"), "{message}");
    assert!(!folder.path().join("artifacts").exists());
}

/// A list of one device is that device.
#[test]
fn one_device_of_several_is_the_device() {
    struct Count;

    impl backend::JobOfDevices for Count {
        type Output = usize;

        fn run<B: TrainBackend>(self, devices: Vec<B::Device>) -> usize {
            devices.len()
        }
    }

    let kind = cpu_backends()[0];
    assert_eq!(backend::dispatch_on(kind, &[], Count).unwrap(), 1);
    assert_eq!(backend::dispatch_on(kind, &[0], Count).unwrap(), 1);
    let twice = backend::dispatch_on(kind, &[0, 0], Count).unwrap_err();
    assert!(matches!(twice, backend::BackendError::SameDevice { index: 0, .. }), "{twice}");
}
