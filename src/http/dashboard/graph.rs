//! A workflow as a picture: layers from left to right, each step a link to its job.

use std::collections::HashMap;

use uuid::Uuid;

use crate::model::moment::printable;
use crate::model::workflow::{Step, class, levels};

/// Steps beyond which no picture is drawn: nobody could read it.
pub(super) const MOST_STEPS: usize = 200;
const WIDTH: usize = 176;
const HEIGHT: usize = 46;
const GAP_X: usize = 52;
const GAP_Y: usize = 16;
/// Longest name that fits into a box.
const NAME: usize = 22;

/// The picture.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) words: String,
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
}

/// A step where it is drawn.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) job_id: Uuid,
    pub(super) name: String,
    pub(super) short: String,
    pub(super) standing: String,
    pub(super) sign: char,
    pub(super) class: &'static str,
    pub(super) is_gate: bool,
}

/// A line from a step to one that needs it.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) path: String,
    /// Whether it stands for anything but success.
    pub(super) is_other: bool,
    pub(super) words: String,
}

impl Graph {
    /// Lays the steps out; none when there are too many.
    pub(super) fn new(steps: &[Step]) -> Option<Self> {
        if steps.is_empty() || steps.len() > MOST_STEPS {
            return None;
        }
        let layers = layers(steps);
        let tallest = layers.iter().map(Vec::len).max().unwrap_or(1);
        let height = tallest * (HEIGHT + GAP_Y) + GAP_Y;
        let mut places = vec![(0, 0); steps.len()];
        for (column, layer) in layers.iter().enumerate() {
            let top = usize::midpoint(height - layer.len() * (HEIGHT + GAP_Y), GAP_Y);
            for (row, &at) in layer.iter().enumerate() {
                places[at] = (GAP_Y + column * (WIDTH + GAP_X), top + row * (HEIGHT + GAP_Y));
            }
        }
        let width = 2 * GAP_Y + layers.len() * (WIDTH + GAP_X) - GAP_X;
        let nodes = steps.iter().zip(&places).map(|(step, &(x, y))| node(step, x, y)).collect();
        let words =
            format!("{} steps in {} layers; the table beneath says the same", steps.len(), layers.len());
        Some(Self { width, height, words, nodes, edges: edges(steps, &places) })
    }
}

/// Places of the steps by layer; within a layer, near to what they need.
fn layers(steps: &[Step]) -> Vec<Vec<usize>> {
    let levels = levels(steps);
    let index: HashMap<Uuid, usize> = steps.iter().enumerate().map(|(at, step)| (step.job_id, at)).collect();
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); levels.iter().max().map_or(0, |last| last + 1)];
    for (at, &level) in levels.iter().enumerate() {
        layers[level].push(at);
    }
    let mut row = vec![0_usize; steps.len()];
    for layer in &mut layers {
        let rows = row.clone();
        let middle = |at: usize| {
            let needed: Vec<usize> = steps[at]
                .needs
                .iter()
                .filter_map(|need| index.get(&need.job_id))
                .map(|&of| rows[of])
                .collect();
            needed.iter().sum::<usize>() * 1000 / needed.len().max(1)
        };
        layer.sort_by_key(|&at| (middle(at), at));
        for (place, &at) in layer.iter().enumerate() {
            row[at] = place;
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

fn node(step: &Step, x: usize, y: usize) -> Node {
    let name = printable(&step.step);
    let mut short: String = name.chars().take(NAME).collect();
    if name.chars().count() > NAME {
        short.pop();
        short.push('…');
    }
    let standing = step.standing().replace('_', " ");
    let (sign, class) = (step.mark(), class(step.standing()));
    Node { x, y, job_id: step.job_id, name, short, standing, sign, class, is_gate: step.gate.is_some() }
}

fn edges(steps: &[Step], places: &[(usize, usize)]) -> Vec<Edge> {
    let index: HashMap<Uuid, usize> = steps.iter().enumerate().map(|(at, step)| (step.job_id, at)).collect();
    let mut edges = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        for need in &step.needs {
            let Some(&from) = index.get(&need.job_id) else { continue };
            let (x1, y1) = (places[from].0 + WIDTH, places[from].1 + HEIGHT / 2);
            let (x2, y2) = (places[at].0, places[at].1 + HEIGHT / 2);
            let bend = GAP_X / 2;
            edges.push(Edge {
                path: format!("M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}", x1 + bend, x2.saturating_sub(bend)),
                is_other: need.on != "success",
                words: format!("{} needs the {} of {}", step.step, need.on, steps[from].step),
            });
        }
    }
    edges
}
