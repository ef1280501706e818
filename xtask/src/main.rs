//! Tasks of the repository: `cargo xtask test`, `bench`, `demo`, `cluster` and `docs`.
//!
//! Everything a task starts it stops, everything it writes outside `target/` and `docs/generated/` is in a
//! temporary folder of its own.

mod bench;
mod cluster;
mod demo;
mod docs;
mod install;
mod signals;
mod test;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the AuditFlow repository", disable_version_flag = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install or find what the tests need, build both programs, run every test
    Test(test::Args),
    /// Run the benches and print the figures that docs/performance.md quotes
    Bench(bench::Args),
    /// Start collector and agent on this machine and show events becoming alerts
    Demo(demo::Args),
    /// Start the collector in roles on a private PostgreSQL and RabbitMQ, with nodes that send to it
    Cluster(cluster::Args),
    /// Write the generated references under docs/generated
    Docs(docs::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Cluster(args) => cluster::run(&args),
        Task::Docs(args) => docs::run(&args),
    }
}
