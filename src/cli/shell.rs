use clap::Args;
use clap_complete::Shell;
use std::path::PathBuf;

const COMPLETIONS_HELP: &str = "\
Examples:
  emberlm completions bash > ~/.local/share/bash-completion/completions/emberlm
  emberlm completions zsh > ~/.zfunc/_emberlm
  emberlm completions fish > ~/.config/fish/completions/emberlm.fish";

const MAN_HELP: &str = "\
Examples:
  emberlm man | man -l -
  emberlm man ~/.local/share/man/man1 && man emberlm-train";

#[derive(Args, Debug)]
#[command(after_help = COMPLETIONS_HELP)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Args, Debug)]
#[command(after_help = MAN_HELP)]
pub struct ManArgs {
    /// Folder to write emberlm.1 and a page a command into
    pub folder: Option<PathBuf>,
}
