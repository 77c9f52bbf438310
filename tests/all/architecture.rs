//! The structure, read from the source text: modules import only from those before them, and
//! concrete backends are named in one place.

use std::fs;
use std::path::{Path, PathBuf};

/// The path of the data, as lib.rs has it.
const ORDER: [&str; 16] = [
    "config",
    "files",
    "backend",
    "tokenizer",
    "data",
    "model",
    "train",
    "artifact",
    "generate",
    "interop",
    "eval",
    "sweep",
    "report",
    "serve",
    "cli",
    "commands",
];

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let root = crate::support::repository().join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 40);
    paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// A file's lines without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn lib_lists_the_modules_in_the_order_of_the_data() {
    let text = all().into_iter().find(|(name, _)| name == "lib.rs").unwrap().1;
    let modules: Vec<&str> =
        code(&text).filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(modules, ORDER);
}

#[test]
fn modules_import_only_from_those_before_them() {
    let place = |module: &str| ORDER.iter().position(|known| *known == module);
    let mut imports = 0;
    for (name, text) in all() {
        let Some(own) = place(name.split(['/', '.']).next().unwrap()) else {
            assert!(["lib.rs", "main.rs"].contains(&name.as_str()), "{name} is in no module");
            continue;
        };
        for line in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                assert!(
                    !rest.starts_with('{'),
                    "{name}: import one module a line, so that this test sees it"
                );
                let module: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let other = place(&module).unwrap_or_else(|| panic!("{name}: crate::{module}"));
                assert!(other <= own, "{name} imports {module}, which comes after it");
                imports += 1;
            }
        }
    }
    assert!(imports > 50, "{imports} imports seen");
}

#[test]
fn only_the_backend_module_names_a_backend() {
    for (name, text) in all() {
        if name.starts_with("backend/") {
            continue;
        }
        // Code in documents is compiled as the user's would be, for a backend that it names.
        for line in code(&text).filter(|line| !line.contains("doctest")) {
            for feature in ["cuda", "wgpu", "flex", "ndarray"] {
                let forbidden = [format!("feature = \"{feature}\""), format!("burn_{feature}")];
                assert!(forbidden.iter().all(|text| !line.contains(text)), "{name}: {line}");
            }
        }
    }
}

#[test]
fn the_model_knows_nothing_of_loss_optimizer_or_files() {
    for (name, text) in all().into_iter().filter(|(name, _)| name.starts_with("model/")) {
        for word in ["cross_entropy", "burn_train", "burn::optim", "std::fs", "safetensors"] {
            assert!(code(&text).all(|line| !line.contains(word)), "{name}: {word}");
        }
    }
}
