//! Developer tasks: `cargo xtask <task>`.

mod import_api;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("import-api") => import_api::run(args),
        Some(other) => anyhow::bail!("unknown task {other:?}; tasks: import-api"),
        None => anyhow::bail!("usage: cargo xtask import-api …"),
    }
}
