use clap::Args;
use std::path::PathBuf;

/// Where to compute.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// Backend to compute on: cuda, wgpu, flex or ndarray [default: the first that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend, by its number in `emberlm doctor` [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
}

/// Where to compute and where runs are.
#[derive(Args, Debug)]
pub struct CommonArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}
