//! Links the static library of the bundle in which this crate lies.
use std::path::Path;

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let lib = Path::new(&here).parent().expect("a bundle").join("lib");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=static=model");
    println!("cargo:rerun-if-changed={}", lib.join("libmodel.a").display());
}
