//! x
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Flags {}
pub(crate) async fn run(_f: Flags) -> anyhow::Result<()> {
    Ok(())
}
