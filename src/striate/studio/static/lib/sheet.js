// A view's own style sheet, loaded with the view, after what several views share.

export function sheet(name) {
  for (const address of ["/static/views/shared.css", `/static/views/${name}.css`]) {
    if (document.querySelector(`link[href="${address}"]`)) continue;
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = address;
    document.head.append(link);
  }
}
