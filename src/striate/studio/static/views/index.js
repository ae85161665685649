// The views in the order of the page's tabs: a view is one line here and one file beside this one. Its module exports
// `title`, `help` (one or two plain sentences) and, as default, the component View({address, store}).
// `hidden` views have no tab; others lead to them. `when` says which subjects a view is for; others have no tab of it.

export const views = [
  { name: "network", label: "Network", load: () => import("/static/views/network.js") },
  { name: "numbers", label: "Numbers", load: () => import("/static/views/numbers.js") },
  { name: "value", label: "One value", hidden: true, load: () => import("/static/views/value.js") },
  { name: "gradients", label: "Gradients", load: () => import("/static/views/gradients.js") },
  { name: "pictures", label: "Pictures", load: () => import("/static/views/pictures.js") },
  { name: "why", label: "Why", load: () => import("/static/views/why.js") },
  { name: "objects", label: "Objects", load: () => import("/static/views/objects.js"), when: (subject) => ["detection", "instance", "semantic"].includes(subject.task) },
  { name: "training", label: "Training", load: () => import("/static/views/training.js"), when: (subject) => Boolean(subject.run) },
  { name: "geometry", label: "Geometry", load: () => import("/static/views/geometry.js") },
];
