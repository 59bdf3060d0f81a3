//! `reveille man`: the manual, a page a command.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde_json::json;

use super::{Cli, Context, Outcome};
use crate::error::{Error, Result};

/// Write the manual pages of all commands into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  reveille man /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Where the pages go; made when it does not exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Outcome> {
    let folder = &args.folder;
    let failed = |path: &Path, error| Error::io(format!("writing {}", path.display()), error);
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut root = Cli::command();
    root.build();
    let pages = pages(&root);
    for (name, page) in &pages {
        let path = folder.join(name);
        std::fs::write(&path, page).map_err(|error| failed(&path, error))?;
    }
    let names: Vec<&String> = pages.iter().map(|(name, _)| name).collect();
    context.out.answer(&json!({ "folder": folder, "pages": names }), || {
        format!(
            "{} pages in {}; `man {}`",
            pages.len(),
            folder.display(),
            folder.join("reveille.1").display()
        )
    })?;
    Ok(Outcome::Done)
}

/// The page of a command and those of the commands within it, each with its file's name.
fn pages(command: &clap::Command) -> Vec<(String, Vec<u8>)> {
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page).unwrap_or_default(); // into memory: it cannot fail
    let mut all = vec![(man.get_filename(), page)];
    all.extend(command.get_subcommands().flat_map(pages));
    all
}
