// A view's own style sheet, loaded with the view.

export function sheet(name) {
  const address = `/static/views/${name}.css`;
  if (document.querySelector(`link[href="${address}"]`)) return;
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = address;
  document.head.append(link);
}
