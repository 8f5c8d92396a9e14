//! The Hub's identifiers of licences and those of SPDX.
//!
//! The Hub's: <https://huggingface.co/docs/hub/repositories-licenses>; SPDX': <https://spdx.org/licenses/>.

/// The SPDX identifier of a licence as the Hub spells it; none for those that SPDX does not list, such as the
/// terms of a model's maker.
pub(super) fn spdx_id(hub: &str) -> Option<&'static str> {
    let lower = hub.to_ascii_lowercase();
    SPDX.iter().find(|(other, _)| *other == lower).map(|(_, spdx)| *spdx)
}

/// A licence in an SPDX expression: an identifier of its list, or a reference that only the document has.
pub(super) fn expression(hub: &str) -> String {
    match spdx_id(hub) {
        Some(id) => id.to_string(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            let name: String = hub.chars().map(|c| if plain(c) { c } else { '-' }).collect();
            format!("LicenseRef-{name}")
        }
    }
}

const SPDX: [(&str, &str); 53] = [
    ("afl-3.0", "AFL-3.0"),
    ("agpl-3.0", "AGPL-3.0-only"),
    ("apache-2.0", "Apache-2.0"),
    ("artistic-2.0", "Artistic-2.0"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-3-clause-clear", "BSD-3-Clause-Clear"),
    ("bsl-1.0", "BSL-1.0"),
    ("c-uda", "C-UDA-1.0"),
    ("cc-by-2.0", "CC-BY-2.0"),
    ("cc-by-2.5", "CC-BY-2.5"),
    ("cc-by-3.0", "CC-BY-3.0"),
    ("cc-by-4.0", "CC-BY-4.0"),
    ("cc-by-nc-2.0", "CC-BY-NC-2.0"),
    ("cc-by-nc-3.0", "CC-BY-NC-3.0"),
    ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
    ("cc-by-nc-nd-3.0", "CC-BY-NC-ND-3.0"),
    ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0"),
    ("cc-by-nc-sa-2.0", "CC-BY-NC-SA-2.0"),
    ("cc-by-nc-sa-3.0", "CC-BY-NC-SA-3.0"),
    ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
    ("cc-by-nd-4.0", "CC-BY-ND-4.0"),
    ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
    ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("cdla-permissive-1.0", "CDLA-Permissive-1.0"),
    ("cdla-permissive-2.0", "CDLA-Permissive-2.0"),
    ("cdla-sharing-1.0", "CDLA-Sharing-1.0"),
    ("ecl-2.0", "ECL-2.0"),
    ("epl-1.0", "EPL-1.0"),
    ("epl-2.0", "EPL-2.0"),
    ("etalab-2.0", "etalab-2.0"),
    ("eupl-1.1", "EUPL-1.1"),
    ("eupl-1.2", "EUPL-1.2"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("isc", "ISC"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("lppl-1.3c", "LPPL-1.3c"),
    ("mit", "MIT"),
    ("mpl-2.0", "MPL-2.0"),
    ("ms-pl", "MS-PL"),
    ("ncsa", "NCSA"),
    ("odbl", "ODbL-1.0"),
    ("odc-by", "ODC-By-1.0"),
    ("ofl-1.1", "OFL-1.1"),
    ("osl-3.0", "OSL-3.0"),
    ("pddl", "PDDL-1.0"),
    ("postgresql", "PostgreSQL"),
    ("unlicense", "Unlicense"),
    ("wtfpl", "WTFPL"),
    ("zlib", "Zlib"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn licences_are_those_of_spdx() {
        let list = include_str!("../../../tests/data/schemas/spdx.schema.json");
        let list: Value = serde_json::from_str(list).unwrap();
        let listed = list["enum"].as_array().unwrap();
        for (hub, spdx) in SPDX {
            assert!(listed.iter().any(|id| id == spdx), "{spdx}");
            assert_eq!(spdx_id(&hub.to_uppercase()), Some(spdx));
        }
        assert_eq!(expression("MIT"), "MIT");
        assert_eq!(expression("llama3.1"), "LicenseRef-llama3.1");
        assert_eq!(expression("openrail++ (b)"), "LicenseRef-openrail----b-");
    }
}
