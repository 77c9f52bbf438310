use clap::Args;

const DOCTOR_HELP: &str = "\
Every device that is found takes one training step of a small GPT-2 and a small Llama; the loss and
the norm of the gradients must be those that PyTorch computes. Nothing is changed.

Exit code: 0 if a run with the same --backend and --device would work, 2 if it would not. What is
wrong with other backends and devices is told, and does not count.";

#[derive(Args, Debug)]
#[command(after_help = DOCTOR_HELP)]
pub struct DoctorArgs {
    /// Backend that has to work: cuda, wgpu, flex or ndarray [default: the first that is compiled
    /// in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend that has to work, by its number [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}
