use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Generate;
use super::texts::Texts;
use crate::backend::GptBackend;
use crate::commands::signals::{STOPPED, on_signal};
use crate::generate::NextToken;

/// Answers one prompt after the other, until the input ends.
pub(super) fn answer<B: GptBackend, M: NextToken<B>, W: Write>(
    generate: &Generate,
    texts: &mut Texts<B, M, W>,
) -> anyhow::Result<()> {
    let mut editor = DefaultEditor::new().context("cannot read from this terminal")?;
    let history = history_file();
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        let mut stderr = io::stderr();
        writeln!(stderr, "Ctrl-C stops an answer, Ctrl-D ends. {}", generate.run.name())?;
    }
    let answering = texts.going();
    answering.store(false, Ordering::SeqCst);
    stop_on_interrupt(answering.clone())?;
    let mut answers = 0;
    loop {
        let line = match editor.readline(if is_terminal { "> " } else { "" }) {
            Ok(line) => line,
            // What was typed is thrown away, as in a shell.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("cannot read from this terminal"),
        };
        if line.is_empty() {
            continue;
        }
        editor.add_history_entry(&line)?;
        if let Some(path) = &history {
            // A history that cannot be kept is no reason to stop.
            let _ = editor.save_history(path);
        }
        let prompt = match generate.prompt(line) {
            Ok(prompt) => prompt,
            Err(error) => {
                writeln!(io::stderr(), "{error:#}")?;
                continue;
            }
        };
        answering.store(true, Ordering::SeqCst);
        texts.write(&prompt, answers)?;
        texts.finish()?;
        if !texts.is_finished() {
            texts.stop()?;
        }
        answering.store(false, Ordering::SeqCst);
        answers += generate.args.samples;
    }
}

/// The first signal while there is an answer ends that; any other ends the program.
fn stop_on_interrupt(answering: Arc<AtomicBool>) -> anyhow::Result<()> {
    on_signal(move || {
        if !answering.swap(false, Ordering::SeqCst) {
            std::process::exit(STOPPED);
        }
    })
}

/// Where prompts are kept from one time to the next, as the XDG base directories have it.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty());
    let state = match state {
        Some(path) => PathBuf::from(path),
        None => std::env::home_dir()?.join(".local/state"),
    };
    let folder = state.join("emberlm");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("prompts"))
}
