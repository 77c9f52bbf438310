use anyhow::Context;
use indicatif::DecimalBytes;
use std::io::Write;

use crate::cli::DatasetsArgs;
use crate::data::Manifest;

pub(super) fn run(args: DatasetsArgs) -> anyhow::Result<()> {
    let root = &args.datasets;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<13} {:>9}  {:<18} licence", "data set", "size", "state")?;
    for name in Manifest::names(root)? {
        let manifest = Manifest::find(&name, root)?
            .with_context(|| format!("the data set {name} has just been deleted"))?;
        let files = manifest.files.len();
        let folder = manifest.folder(root);
        let there = manifest.files.iter().filter(|file| folder.join(&file.name).is_file()).count();
        let (size, state) = if manifest.is_generated() {
            ("-".into(), "generated".into())
        } else {
            let size = match manifest.bytes() {
                Some(bytes) => DecimalBytes(bytes).to_string(),
                None => format!("{files} files"),
            };
            let state = match there {
                0 => "not here".into(),
                there if there == files => "here".into(),
                there => format!("{there} of {files} files here"),
            };
            (size, state)
        };
        writeln!(out, "{name:<13} {size:>9}  {state:<18} {}", manifest.licence)?;
        writeln!(out, "  {}", manifest.description)?;
    }
    Ok(())
}
