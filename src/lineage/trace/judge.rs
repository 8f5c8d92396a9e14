//! What a finished graph says of itself: circles, and records that contradict each other.

use super::build::Built;
use super::{Edge, Evidence, Kind, Trace};
use crate::lineage::short_name;
use crate::model::hub::HubReference;
use std::collections::BTreeSet;

/// Marks circles and notes contradictions.
pub(super) fn judge(built: &mut Built) {
    mark_cycles(&mut built.trace);
    let mut found: Vec<(usize, String)> = Vec::new();
    for (index, declared) in &built.declared {
        if built.trace.parents(*index).any(|(_, edge)| edge.evidence == Evidence::Recorded) {
            against_record(built, *index, declared, &mut found);
        } else {
            among_declared(declared, *index, &mut found);
        }
    }
    for edge in &built.trace.edges {
        found.extend(own_digest(&built.trace, built, edge));
    }
    for (index, text) in found {
        if let Some(node) = built.trace.nodes.get_mut(index)
            && !node.contradictions.contains(&text)
        {
            node.contradictions.push(text);
        }
    }
}

/// Marks the edges that close a circle, by a walk that keeps its own stack.
fn mark_cycles(trace: &mut Trace) {
    let mut parents: Vec<Vec<(usize, usize)>> = vec![Vec::new(); trace.nodes.len()];
    for (number, edge) in trace.edges.iter().enumerate() {
        if let Some(of_child) = parents.get_mut(edge.child) {
            of_child.push((number, edge.parent));
        }
    }
    // 0: not seen, 1: on the way, 2: done.
    let mut state = vec![0_u8; trace.nodes.len()];
    let mut closing = Vec::new();
    for start in 0..trace.nodes.len() {
        if state[start] != 0 {
            continue;
        }
        state[start] = 1;
        let mut way = vec![(start, 0)];
        while let Some((node, next)) = way.last_mut() {
            match parents[*node].get(*next).copied() {
                Some((edge, parent)) => {
                    *next += 1;
                    match state[parent] {
                        0 => {
                            state[parent] = 1;
                            way.push((parent, 0));
                        }
                        1 => closing.push(edge),
                        _ => {}
                    }
                }
                None => {
                    state[*node] = 2;
                    way.pop();
                }
            }
        }
    }
    for edge in closing {
        if let Some(edge) = trace.edges.get_mut(edge) {
            edge.cycle = true;
        }
    }
}

/// The nodes above a node, stages included.
fn above(trace: &Trace, index: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![index];
    while let Some(node) = open.pop() {
        for (_, edge) in trace.parents(node) {
            if found.insert(edge.parent) {
                open.push(edge.parent);
            }
        }
    }
    found
}

/// The name of a reference without its revision, and whether it is surely one of the Hub's.
fn plain(name: &str) -> (String, bool) {
    match HubReference::parse(name) {
        Some(hub) => (hub.repo, true),
        None => (short_name(name).to_string(), false),
    }
}

/// Whether two references may mean one model. Paths go by their last part, and one that looks like a name
/// on the Hub may be a path.
fn same(a: &str, b: &str, b_is_path: bool) -> bool {
    let ((a, a_on_hub), (b, b_on_hub)) = (plain(a), plain(b));
    if a == b {
        return true;
    }
    let certain = a_on_hub && b_on_hub && !b_is_path;
    !certain && short_name(&a) == short_name(&b)
}

/// What files declare beside a manifest: names that it does not hold, and parents that a card leaves out.
fn against_record(
    built: &Built,
    index: usize,
    declared: &[(&'static str, Vec<String>)],
    found: &mut Vec<(usize, String)>,
) {
    let trace = &built.trace;
    let mut told = above(trace, index);
    told.insert(index);
    let said: Vec<&String> = told.iter().filter_map(|i| built.said.get(i)).flatten().collect();
    let all: Vec<_> = above(trace, index).into_iter().filter_map(|i| trace.nodes.get(i)).collect();
    let names =
        |node: &super::Node| (node.repo.clone().unwrap_or(node.name.clone()), node.repo.is_none());
    for (file, of_file) in declared {
        for name in of_file {
            let known = all.iter().any(|node| {
                let (own, is_path) = names(node);
                same(name, &own, is_path)
            });
            if !known && !said.iter().any(|said| same(name, said, false)) {
                found.push((
                    index,
                    format!("{file} names {name}, which lineage.json does not know"),
                ));
            }
        }
        // Stages stand for their own parents.
        let direct = trace.parents(index).filter_map(|(_, edge)| trace.nodes.get(edge.parent));
        for node in direct.filter(|node| node.kind != Kind::Stage) {
            let (own, is_path) = names(node);
            if !of_file.iter().any(|name| same(name, &own, is_path)) {
                found
                    .push((index, format!("{file} does not name {own}, a parent by lineage.json")));
            }
        }
    }
}

/// Files that declare different parents.
fn among_declared(
    declared: &[(&'static str, Vec<String>)],
    index: usize,
    found: &mut Vec<(usize, String)>,
) {
    let Some(((first, names), others)) = declared.split_first() else { return };
    for (other, of_other) in others {
        let lacks = |of: &[String], name: &String| !of.iter().any(|own| same(own, name, true));
        let more: Vec<&str> =
            of_other.iter().filter(|name| lacks(names, name)).map(String::as_str).collect();
        let less: Vec<&str> =
            names.iter().filter(|name| lacks(of_other, name)).map(String::as_str).collect();
        for (with, without, which) in [(other, first, more), (first, other, less)] {
            if !which.is_empty() {
                let which = crate::error::list(which);
                found.push((index, format!("{with} names {which}, and {without} does not")));
            }
        }
    }
}

/// A parent whose own manifest states another digest than its child recorded.
fn own_digest(trace: &Trace, built: &Built, edge: &Edge) -> Option<(usize, String)> {
    let number = trace.edges.iter().position(|other| std::ptr::eq(other, edge))?;
    let recorded = built.digests.iter().find(|recorded| recorded.edge == number)?;
    let parent = trace.nodes.get(edge.parent)?;
    let own = parent.digest.as_ref().filter(|_| recorded.adapters.is_empty())?;
    (*own != recorded.digest).then(|| {
        let text = format!(
            "its lineage.json states another digest of {} than that states itself",
            parent.name
        );
        (edge.child, text)
    })
}
