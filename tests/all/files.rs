//! Files that are written whole, wherever they are.

#![cfg(unix)]

use emberlm::files::write_whole;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;

fn write(path: &Path, text: &str) {
    write_whole(path, |file| file.write_all(text.as_bytes())).unwrap();
}

#[test]
fn a_link_stays_and_leads_to_what_was_written() {
    let root = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| root.path().join(name));
    [&from, &to].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    fs::write(to.join("there"), "before").unwrap();
    symlink("../to/there", from.join("link")).unwrap();
    symlink("link", from.join("link-to-link")).unwrap();
    symlink(to.join("new"), from.join("to-nothing")).unwrap();
    symlink("circle", from.join("circle")).unwrap();
    write(&from.join("link"), "now");
    assert_eq!(fs::read_to_string(to.join("there")).unwrap(), "now");
    write(&from.join("link-to-link"), "then");
    assert_eq!(fs::read_to_string(to.join("there")).unwrap(), "then");
    write(&from.join("to-nothing"), "new");
    assert_eq!(fs::read_to_string(to.join("new")).unwrap(), "new");
    write_whole(&from.join("circle"), |_| unreachable!()).unwrap_err();
    for link in ["link", "link-to-link", "to-nothing", "circle"] {
        assert!(fs::symlink_metadata(from.join(link)).unwrap().is_symlink(), "{link}");
    }
    assert_eq!(fs::read_dir(&from).unwrap().count() + fs::read_dir(&to).unwrap().count(), 6);
}

#[test]
fn a_pipe_stays_and_is_written_to() {
    let root = tempfile::tempdir().unwrap();
    let pipe = root.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    write(&pipe, "through");
    assert_eq!(reader.join().unwrap(), "through");
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}
