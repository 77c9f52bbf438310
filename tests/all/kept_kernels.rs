//! The folders that keep what kernels became.

use emberlm::backend::{KEPT, kernels_folder};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Has a program last run that long ago.
fn last_run(folder: &Path, age: Duration) {
    let used = File::options().write(true).open(folder.join("used")).unwrap();
    used.set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn programs_that_differ_have_folders_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("kernels");
    let [one, same, other] = ["one", "same", "other"].map(|name| folder.path().join(name));
    fs::write(&one, "a program").unwrap();
    fs::write(&same, "a program").unwrap();
    fs::write(&other, "a prograM").unwrap();
    let kept = kernels_folder(&root, &one).unwrap();
    assert!(kept.starts_with(&root) && kept.is_dir());
    assert_eq!(kept, kernels_folder(&root, &same).unwrap());
    assert_ne!(kept, kernels_folder(&root, &other).unwrap());
    // Built anew under its old name.
    fs::write(&one, "a prograM").unwrap();
    assert_eq!(kernels_folder(&root, &one).unwrap(), kernels_folder(&root, &other).unwrap());
}

#[test]
fn what_no_program_has_used_for_long_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("kernels");
    let folders = ["forgotten", "rare", "present"].map(|name| {
        let program = folder.path().join(name);
        fs::write(&program, name).unwrap();
        let kept = kernels_folder(&root, &program).unwrap();
        fs::write(kept.join("kernel"), name).unwrap();
        kept
    });
    let [forgotten, rare, present] = &folders;
    let stranger = root.join("autotune");
    fs::create_dir(&stranger).unwrap();
    last_run(forgotten, KEPT + DAY);
    last_run(rare, KEPT - DAY);
    last_run(present, KEPT + DAY);
    kernels_folder(&root, &folder.path().join("present")).unwrap();
    assert!(!forgotten.exists());
    assert!(rare.join("kernel").exists() && present.join("kernel").exists() && stranger.exists());
    // To have run now is to have been used.
    kernels_folder(&root, &folder.path().join("rare")).unwrap();
    assert!(present.exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let [root, program] = ["root", "program"].map(|name| folder.path().join(name));
    fs::write(&root, "no folder").unwrap();
    fs::write(&program, "a program").unwrap();
    kernels_folder(&root, &program).unwrap_err();
    kernels_folder(&folder.path().join("kernels"), &root.join("none")).unwrap_err();
}
