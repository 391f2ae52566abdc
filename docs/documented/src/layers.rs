//! Checks the modules of a crate against the layers in ARCHITECTURE.md. Reads imports and paths in code, not in tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

use crate::{Page, tree};

/// The path of a module from the root of its crate: `["engine", "run"]`. Empty for the root.
type Module = Vec<String>;

/// The modules of a crate without its tests, and the paths that each module uses.
#[derive(Debug, Default)]
pub struct Crate {
    name: String,
    files: BTreeMap<Module, PathBuf>,
    /// Pairs of a module and a path that it uses, both from the root of the crate.
    used: BTreeSet<(Module, Module)>,
    /// The target of each re-exported path: `pub use self::past::Past`.
    reexported: BTreeMap<Module, Module>,
    /// Where each public type is defined.
    types: BTreeMap<String, Vec<Module>>,
}

impl Crate {
    /// Reads a crate by the name of its folder: `upgrader`.
    pub fn read(name: &str) -> Self {
        let mut read = Self { name: name.to_owned(), ..Self::default() };
        read.module(Vec::new(), &tree(name).join("src/lib.rs"));
        read
    }

    fn module(&mut self, module: Module, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.files.insert(module.clone(), file.to_owned());
        let mut reader = Reader { crate_: self, module, children: Vec::new() };
        reader.visit_file(&parsed);
        let Reader { module, children, .. } = reader;
        let directory = if module.is_empty() || file.ends_with("mod.rs") {
            file.parent().expect("a directory").to_owned()
        } else {
            file.with_extension("")
        };
        for child in children {
            let (one, other) = (directory.join(format!("{child}.rs")), directory.join(&child).join("mod.rs"));
            let path = module.iter().cloned().chain([child]).collect();
            self.module(path, if one.exists() { &one } else { &other });
        }
    }

    /// The module that defines a path, found through re-exports.
    fn resolve(&self, path: &[String]) -> Module {
        let mut path = path.to_vec();
        // Chains of re-exports are shorter than this. The compiler rejects a circle.
        for _ in 0..9 {
            let known = (0..=path.len()).rev().find_map(|end| Some((end, self.reexported.get(&path[..end])?)));
            let Some((end, target)) = known else { break };
            path = target.iter().chain(&path[end..]).cloned().collect();
        }
        while !self.files.contains_key(&path) {
            path.pop();
        }
        path
    }

    /// The dependencies between the files and folders of each folder, each with an example. A `mod.rs` counts as its folder.
    fn edges(&self) -> BTreeMap<Module, BTreeMap<(String, String), String>> {
        let mut folders: BTreeMap<Module, BTreeMap<(String, String), String>> = BTreeMap::new();
        for (from, path) in &self.used {
            let to = self.resolve(path);
            let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
            if let (Some(user), Some(used)) = (from.get(common), to.get(common)) {
                let example = format!("{} uses {}", shown(&self.files[from]), path.join("::"));
                let folder = folders.entry(from[..common].to_vec()).or_default();
                folder.entry((user.clone(), used.clone())).or_insert(example);
            }
        }
        folders
    }

    /// The imports that violate the layers of ARCHITECTURE.md, and the circles.
    pub fn misdirected(&self) -> Vec<String> {
        let label = format!("layers {}", self.name);
        let blocks = Page::read("ARCHITECTURE.md").blocks();
        let table = blocks.iter().find(|block| block.label == label).unwrap_or_else(|| panic!("no block ```{label}"));
        let layer =
            |module: &str| table.text.split('<').position(|layer| layer.split_whitespace().any(|name| name == module));
        let folders = self.edges();
        let mut wrong = Vec::new();
        for module in self.files.keys().filter(|module| module.len() == 1 && layer(&module[0]).is_none()) {
            wrong.push(format!("ARCHITECTURE.md: {} has no layer", module[0]));
        }
        for ((user, used), example) in folders.get(&Vec::new()).into_iter().flatten() {
            if layer(user) < layer(used) {
                wrong.push(format!("{example}: {user} is below {used}"));
            }
        }
        for (folder, edges) in &folders {
            for circle in circles(&edges.keys().collect::<Vec<_>>()) {
                let inside =
                    |((user, used), _): &(&(String, String), &String)| circle.contains(user) && circle.contains(used);
                let examples: Vec<_> =
                    edges.iter().filter(inside).map(|(_, example)| format!("\n  {example}")).collect();
                let names: Vec<_> = circle.into_iter().collect();
                wrong.push(format!(
                    "{}/{}: circle of {}: {}{}",
                    self.name,
                    folder.join("/"),
                    names.len(),
                    names.join(", "),
                    examples.concat()
                ));
            }
        }
        wrong
    }

    /// The irregular files: without a header, a module in two forms, or a public type name that is defined twice.
    pub fn irregular(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for file in self.files.values() {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if !text.starts_with("//!") {
                wrong.push(format!("{}: does not begin with //!", shown(file)));
            }
            if file.with_extension("").is_dir() {
                wrong.push(format!("{}: beside a folder of the same name; make it mod.rs", shown(file)));
            }
        }
        for (name, modules) in self.types.iter().filter(|(_, modules)| modules.len() > 1) {
            let modules: Vec<_> = modules.iter().map(|module| module.join("::")).collect();
            wrong.push(format!(
                "{}: the type name {name} stands for {} things: {}",
                self.name,
                modules.len(),
                modules.join(", ")
            ));
        }
        wrong
    }
}

/// The groups of names that use each other, directly or indirectly.
fn circles(edges: &[&(String, String)]) -> BTreeSet<BTreeSet<String>> {
    let reachable = |start: &str| {
        let (mut found, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
        while let Some(name) = open.pop() {
            for (_, used) in edges.iter().filter(|(user, _)| *user == name) {
                if found.insert(used.clone()) {
                    open.push(used.clone());
                }
            }
        }
        found
    };
    let all: BTreeMap<&String, BTreeSet<String>> = edges.iter().map(|(user, _)| (user, reachable(user))).collect();
    let both = |one: &String, other: &String| {
        all[one].contains(other) && all.get(other).is_some_and(|found| found.contains(one))
    };
    let groups = all.keys().filter(|name| both(name, name));
    groups.map(|name| all[*name].iter().filter(|other| both(name, other)).cloned().collect()).collect()
}

/// Collects the paths that one module uses.
struct Reader<'a> {
    crate_: &'a mut Crate,
    module: Module,
    /// Its modules that have files of their own.
    children: Vec<String>,
}

impl Reader<'_> {
    /// A path from the root of the crate; none if it belongs to another crate.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        let base = match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" => [&self.module[..], &path[1..]].concat(),
            "super" => [&self.module[..self.module.len().checked_sub(ups)?], &path[ups..]].concat(),
            child if self.children.iter().any(|name| name == child) => [&self.module[..], path].concat(),
            _ => return None,
        };
        Some(base)
    }

    fn uses(&mut self, path: &[String]) {
        if let Some(path) = self.absolute(path) {
            self.crate_.used.insert((self.module.clone(), path));
        }
    }

    fn imports(&mut self, tree: &UseTree, before: &[String], public: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.imports(&path.tree, &with(&path.ident), public),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.imports(tree, before, public)),
            UseTree::Glob(_) => self.uses(before),
            UseTree::Name(name) if name.ident == "self" => self.uses(before),
            UseTree::Name(name) => self.import(&with(&name.ident), &name.ident, public),
            UseTree::Rename(rename) => self.import(&with(&rename.ident), &rename.rename, public),
        }
    }

    fn import(&mut self, path: &[String], name: &syn::Ident, public: bool) {
        self.uses(path);
        if let (true, Some(path)) = (public, self.absolute(path)) {
            let alias = [&self.module[..], &[name.to_string()]].concat();
            self.crate_.reexported.insert(alias, path);
        }
    }

    fn defines(&mut self, name: &syn::Ident, visibility: &Visibility) {
        if matches!(visibility, Visibility::Public(_)) {
            self.crate_.types.entry(name.to_string()).or_default().push(self.module.clone());
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_file(&mut self, file: &'ast syn::File) {
        let children = file.items.iter().filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() && !is_test(&module.attrs) => Some(module.ident.to_string()),
            _ => None,
        });
        self.children = children.collect();
        visit::visit_file(self, file);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Use(item) if !is_test(&item.attrs) => {
                self.imports(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
            }
            Item::Mod(item) if is_test(&item.attrs) => {}
            Item::Fn(item) if is_test(&item.attrs) => {}
            Item::Impl(item) if is_test(&item.attrs) => {}
            Item::Struct(syn::ItemStruct { ident, vis, .. })
            | Item::Enum(syn::ItemEnum { ident, vis, .. })
            | Item::Trait(syn::ItemTrait { ident, vis, .. })
            | Item::Type(syn::ItemType { ident, vis, .. }) => {
                self.defines(ident, vis);
                visit::visit_item(self, item);
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.uses(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // The argument of a macro is a list of tokens: only whole paths can be recognized in it.
        let text = call.tokens.to_string().replace(' ', "");
        for (start, _) in text.match_indices("crate::") {
            let path =
                text[start..].split(|letter: char| letter != ':' && letter != '_' && !letter.is_alphanumeric()).next();
            self.uses(&path.unwrap_or_default().split("::").map(str::to_owned).collect::<Vec<_>>());
        }
    }
}

/// The path of a file from the root of the tree.
fn shown(file: &Path) -> String {
    file.strip_prefix(tree("")).unwrap_or(file).display().to_string()
}

fn is_test(attributes: &[Attribute]) -> bool {
    let is_one = |attribute: &Attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
    };
    attributes.iter().any(is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_however_long_and_a_line_is_none() {
        let edge =
            |edge: &str| edge.split_once('>').map(|(one, other)| (one.to_owned(), other.to_owned())).expect("a >");
        let found = |text: &str| {
            let edges: Vec<_> = text.split(' ').map(edge).collect();
            circles(&edges.iter().collect::<Vec<_>>())
                .into_iter()
                .map(|circle| circle.into_iter().collect::<String>())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("a>b b>c a>c"), [""; 0]);
        assert_eq!(found("a>b b>c c>a c>d e>f f>e"), ["abc", "ef"]);
    }
}
