//! Decides which paths rollback data covers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZero;
use std::path::{Component, Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::fs::FileType;

use super::Scope;
use super::content::content;
use super::metadata::{below, is_absent, is_of_absent, kind_and_mount};
use crate::exit::Failure;
use crate::files::{self, Link};
use crate::paths::Paths;
use crate::system::dpkg;

/// Where dpkg keeps its database.
pub(super) const DPKG: &str = "/var/lib/dpkg";

/// What dpkg knows of each package. dpkg replaces each of these files by a rename: lib/dpkg/atomic-file.c, and the control files come from
/// an unpacked package.
pub(super) const INFO: &str = "/var/lib/dpkg/info";

/// The locks of dpkg, which are held during a rollback.
const LOCKS: [&str; 3] = ["/var/lib/dpkg/lock", "/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/triggers/Lock"];

/// What is edited in place, or small and of many hands: configuration, and the registries of maintainer scripts.
pub(super) const COPIED: [&str; 29] = [
    "/etc",
    // base-files brings these up to date.
    "/root/.profile",
    "/root/.bashrc",
    DPKG,
    "/var/lib/apt/extended_states",
    "/var/lib/ucf",
    "/var/lib/systemd/deb-systemd-helper-enabled",
    "/var/lib/systemd/deb-systemd-helper-masked",
    "/var/lib/systemd/deb-systemd-user-helper-enabled",
    "/var/lib/systemd/deb-systemd-user-helper-masked",
    "/var/lib/systemd/catalog",
    "/var/lib/pam",
    "/var/lib/python",
    "/var/lib/xml-core",
    "/var/lib/sgml-base",
    "/var/lib/initramfs-tools",
    "/var/lib/apache2",
    "/var/lib/php/modules",
    "/var/lib/binfmts",
    "/var/lib/emacsen-common",
    "/var/lib/dictionaries-common",
    "/var/lib/vim/addons",
    "/var/lib/doc-base",
    "/var/cache/debconf",
    // grub-mkconfig(8) and grub-install(8) write in place; on EFI machines they do so on a vfat, which has no links.
    "/boot/grub",
    "/boot/efi",
    // localedef(1) writes in place, and so does install-info(1).
    "/usr/lib/locale/locale-archive",
    "/usr/share/info/dir",
    "/usr/share/info/dir.old",
];

/// Where what no package owns has been put by packages all the same: compiled Python, alternatives, kernels' images.
const UNOWNED: [&str; 2] = ["/usr", "/boot"];

/// Where only the first level tells that a package came or went: the rest is data. apt leaves files there that it could not write to their end.
const FIRST_LEVEL: [&str; 4] = ["/var/lib", "/var/lib/apt", "/var/lib/systemd", "/opt"];

/// Where files are replaced and not edited. What a package has elsewhere may be data.
const REPLACED: [&str; 3] = ["/usr", "/boot", "/opt"];

/// The size in bytes up to which [`Coverage::CopySmall`] is a copy. What scripts write in place are caches and generated configuration; larger
/// files are mostly images of kernels, which update-initramfs(8) renames.
pub(super) const SMALL: u64 = 16 << 20;

/// How a path is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Coverage {
    /// In the manifest only, unless it is a file.
    Note,
    /// By another name for its inode.
    Link,
    /// By a copy if it has at most [`SMALL`] bytes, else like `Link`: a maintainer script made it, and may write into it.
    CopySmall,
    /// By a copy of its content.
    Copy,
}

/// What packages have where.
pub(super) struct Lists {
    /// The package and the content of each list.
    pub(super) lists: Vec<(String, Vec<u8>)>,
    pub(super) diversions: Vec<dpkg::Diversion>,
}

impl Lists {
    /// As dpkg has them now.
    pub(super) fn now(root: &Path) -> Result<Self> {
        let directory = below(root, Path::new(INFO));
        let mut lists = Vec::new();
        for (name, _) in files::entries(&directory).with_context(|| directory.display().to_string())? {
            if let Some(package) = dpkg::package_of_list(&name) {
                lists.push((package.to_owned(), content(&directory.join(&name))?));
            }
        }
        let diversions = below(root, Path::new(DPKG)).join("diversions");
        let diversions = match content(&diversions) {
            Err(error) if is_of_absent(&error) => Vec::new(),
            text => dpkg::parse_diversions(&text?),
        };
        Ok(Self { lists, diversions })
    }

    /// The paths of packages that pass a test, with the diversions that concern them.
    pub(super) fn paths(
        &self,
        resolver: &mut PathResolver<'_>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<HashSet<PathBuf>> {
        let mut paths = HashSet::new();
        for (_, list) in self.lists.iter().filter(|(package, _)| wanted(package)) {
            for path in dpkg::listed(list) {
                paths.insert(resolver.resolve(path)?);
            }
        }
        for diversion in &self.diversions {
            let (from, to) = (resolver.resolve(&diversion.from)?, resolver.resolve(&diversion.to)?);
            if wanted(&diversion.by) || paths.contains(&from) {
                paths.extend([from, to]);
            }
        }
        Ok(paths)
    }
}

/// What the packages of a scope have, and how it has to be covered.
pub(super) fn of_packages(paths: &Paths, scope: &Scope) -> Result<BTreeMap<PathBuf, Coverage>> {
    let root = paths.root();
    let forbidden = Exclusions::new(paths, &[]);
    let mut covered = Covered { root, forbidden: &forbidden, paths: BTreeMap::new() };
    covered.add_packages(&Lists::now(root)?, &mut PathResolver::new(root), scope)?;
    Ok(covered.paths)
}

/// Every path that has to be covered, and how.
pub(super) fn covered(paths: &Paths, scope: &Scope) -> Result<BTreeMap<PathBuf, Coverage>> {
    let root = paths.root();
    let forbidden = Exclusions::new(paths, &[]);
    let mut resolver = PathResolver::new(root);
    let lists = Lists::now(root)?;
    let mut covered = Covered { root, forbidden: &forbidden, paths: BTreeMap::new() };

    covered.add_packages(&lists, &mut resolver, scope)?;
    if let Some(link) = resolver.foreign.take() {
        let shown = link.display();
        let what = format!("another user could have made the link {shown}, and dpkg would write to where it leads");
        let remedy = format!("`ls -l {shown}` shows it. Remove it, then start again.");
        return Err(Failure::new(what).remedy(remedy).into());
    }
    let owned = lists.paths(&mut resolver, |_| true)?;
    for top in UNOWNED {
        covered.walk(Path::new(top), &mut |covered, path, kind| {
            if !owned.contains(path) {
                // Python renames what it compiled (py_compile), and no package writes below /usr/local (Debian Policy, 9.1.2).
                let is_replaced = path.extension().is_some_and(|it| it == "pyc") || path.starts_with("/usr/local");
                covered.add(path.to_owned(), if is_replaced { Coverage::Link } else { Coverage::CopySmall });
            } else if kind.is_dir() {
                // What comes and goes in it changes its time.
                covered.add(path.to_owned(), Coverage::Note);
            }
        })?;
    }
    for top in FIRST_LEVEL {
        for (path, _) in entries(root, Path::new(top))? {
            covered.add(path, Coverage::Note);
        }
    }
    let declared = scope.declared.iter().map(|path| resolver.resolve(path)).collect::<Result<Vec<_>>>()?;
    for top in COPIED.iter().map(Path::new).chain(declared.iter().map(PathBuf::as_path)) {
        covered.walk(top, &mut |covered, path, _| {
            let is_replaced = path.parent() == Some(Path::new(INFO));
            covered.add(path.to_owned(), if is_replaced { Coverage::Link } else { Coverage::Copy });
        })?;
    }
    Ok(covered.with_ancestors())
}

/// The paths below which a restored machine has nothing that did not come with the upgrade.
pub(super) fn walked_for_added() -> impl Iterator<Item = &'static Path> {
    let all = COPIED.iter().chain(&UNOWNED).map(Path::new);
    all.filter(|path| !UNOWNED.iter().any(|top| *path != Path::new(top) && path.starts_with(top)))
}

/// The paths below which only what is new on the first level came with the upgrade.
pub(super) fn first_levels() -> impl Iterator<Item = &'static Path> {
    FIRST_LEVEL.iter().map(Path::new)
}

struct Covered<'a> {
    root: &'a Path,
    forbidden: &'a Exclusions,
    paths: BTreeMap<PathBuf, Coverage>,
}

impl Covered<'_> {
    fn add_packages(&mut self, lists: &Lists, resolver: &mut PathResolver<'_>, scope: &Scope) -> Result<()> {
        for path in lists.paths(resolver, |package| scope.has(package))? {
            let is_replaced = REPLACED.iter().any(|top| path.starts_with(top));
            // dpkg replaces what a conffile links to, not the link.
            if !is_replaced && let Some(target) = resolver.target(&path)? {
                self.add(target, Coverage::Copy);
            }
            self.add(path, if is_replaced { Coverage::Link } else { Coverage::Copy });
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, treatment: Coverage) {
        if !self.forbidden.has(&path) {
            let there = self.paths.entry(path).or_insert(treatment);
            *there = treatment.max(*there);
        }
    }

    fn walk(&mut self, top: &Path, visit: &mut dyn FnMut(&mut Self, &Path, FileType)) -> Result<()> {
        let (root, forbidden) = (self.root, self.forbidden);
        walk(root, top, &|path, _| !forbidden.has(path), &mut |path, kind| visit(self, path, kind))
    }

    /// With the directories above, so that each can be made before what is in it.
    fn with_ancestors(mut self) -> BTreeMap<PathBuf, Coverage> {
        let mut above = HashSet::new();
        for path in self.paths.keys() {
            for directory in path.ancestors().skip(1) {
                if self.paths.contains_key(directory) || !above.insert(directory.to_owned()) {
                    break;
                }
            }
        }
        self.paths.extend(above.into_iter().map(|path| (path, Coverage::Note)));
        self.paths
    }
}

/// The name of the directory with rollback data on another filesystem than the upgrader's own state.
pub(super) fn directory_name(paths: &Paths) -> String {
    format!(".{}-rollback", paths.package())
}

/// What is never stored and never removed.
pub(super) struct Exclusions {
    paths: HashSet<PathBuf>,
    /// What is below these, too.
    trees: Vec<PathBuf>,
    /// The name of the directory with rollback data on another filesystem than the upgrader's own state.
    store: String,
}

impl Exclusions {
    pub(super) fn new(paths: &Paths, trees: &[PathBuf]) -> Self {
        let logical = |path: &Path| Path::new("/").join(path.strip_prefix(paths.root()).unwrap_or(path));
        let mut forbidden = Self {
            paths: LOCKS.iter().map(PathBuf::from).collect(),
            trees: trees.to_vec(),
            store: directory_name(paths),
        };
        // The policy belongs to the run, which takes it away itself.
        forbidden.paths.extend([paths.policy(), paths.admins_policy()].map(|path| logical(&path)));
        forbidden.trees.push(logical(&paths.state()));
        forbidden
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
            || self.trees.iter().any(|tree| path.starts_with(tree))
            || path.components().any(|component| component.as_os_str() == self.store.as_str())
    }
}

/// Visits what is at and below a path, a directory before what is in it, and stays on one mount. Links are not followed. What is
/// not `kept` is neither visited nor entered. All processors read directories, level by level.
pub(super) fn walk(
    root: &Path,
    top: &Path,
    is_kept: &(dyn Fn(&Path, FileType) -> bool + Sync),
    visit: &mut dyn FnMut(&Path, FileType),
) -> Result<()> {
    let full = below(root, top);
    let Some((kind, mount)) = kind_and_mount(&full)? else { return Ok(()) };
    let mut level = vec![(top.to_owned(), kind)];
    level.retain(|(path, kind)| is_kept(path, *kind));
    while !level.is_empty() {
        for (path, kind) in &level {
            visit(path, *kind);
        }
        level.retain(|(_, kind)| kind.is_dir());
        level = on_all_processors(&level, |(directory, _)| {
            let mut found = Vec::new();
            for (path, kind) in entries(root, directory)? {
                if is_kept(&path, kind)
                    && (!kind.is_dir() || kind_and_mount(&below(root, &path))?.is_some_and(|(_, it)| it == mount))
                {
                    found.push((path, kind));
                }
            }
            Ok(found)
        })?;
    }
    Ok(())
}

/// The results of some work on each item, in the order of the items. Few items are not worth a thread.
fn on_all_processors<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<Vec<R>> + Sync) -> Result<Vec<R>> {
    const FEW: usize = 16;
    let of_all = |items: &[T]| Ok(items.iter().map(&work).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect());
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    if items.len() < FEW || processors == 1 {
        return of_all(items);
    }
    thread::scope(|scope| {
        let share = items.len().div_ceil(processors);
        let threads: Vec<_> = items.chunks(share).map(|items| scope.spawn(|| of_all(items))).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))));
        Ok(results.collect::<Result<Vec<Vec<R>>>>()?.into_iter().flatten().collect())
    })
}

/// What is in a directory; nothing if it is not there.
pub(super) fn entries(root: &Path, directory: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let full = below(root, directory);
    match files::entries(&full) {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        entries => {
            let entries = entries.with_context(|| full.display().to_string())?;
            Ok(entries.into_iter().map(|(name, kind)| (directory.join(name), kind)).collect())
        }
    }
}

/// Finds the one path of a file whose parent directories may be links: packages say `/lib/x`, and it is `/usr/lib/x`.
pub(super) struct PathResolver<'a> {
    root: &'a Path,
    directories: HashMap<PathBuf, PathBuf>,
    /// A link in the place of a directory that another user could have made, and that leads to what is not that user's.
    foreign: Option<PathBuf>,
}

/// As many links as the kernel follows (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

impl<'a> PathResolver<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, directories: HashMap::new(), foreign: None }
    }

    /// The path with its parents' links resolved, and its own not.
    pub(super) fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
        self.follow(path, MAX_LINKS)
    }

    /// What a link leads to in the end; `None` if the path is no link.
    fn target(&mut self, path: &Path) -> Result<Option<PathBuf>> {
        let mut now = path.to_owned();
        for _ in 0..MAX_LINKS {
            let Link::To(target) = self.link(&now)? else { return Ok((now != path).then_some(now)) };
            now = self.resolve(&target)?;
        }
        Ok(None)
    }

    fn follow(&mut self, path: &Path, links: usize) -> Result<PathBuf> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(PathBuf::from("/")) };
        Ok(self.directory(parent, links)?.join(name))
    }

    fn directory(&mut self, path: &Path, links: usize) -> Result<PathBuf> {
        if let Some(known) = self.directories.get(path) {
            return Ok(known.clone());
        }
        let mut found = self.follow(path, links)?;
        match self.link(&found)? {
            Link::To(target) if links > 0 => found = self.directory(&target, links - 1)?,
            Link::Foreign => drop(self.foreign.get_or_insert_with(|| found.clone())),
            _ => {}
        }
        self.directories.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// Where a link leads, as an absolute path without dots.
    fn link(&self, path: &Path) -> Result<Link> {
        let full = below(self.root, path);
        let target = match files::link(&full).with_context(|| full.display().to_string())? {
            Link::To(target) => target,
            other => return Ok(other),
        };
        let mut absolute = PathBuf::from("/");
        for component in path.parent().unwrap_or(path).join(target).components() {
            match component {
                Component::ParentDir => {
                    absolute.pop();
                }
                Component::Normal(name) => absolute.push(name),
                _ => {}
            }
        }
        Ok(Link::To(absolute))
    }
}
