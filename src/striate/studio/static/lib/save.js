// What is shown, as a file: SVG with the colours that it has on the page, PNG, JSON.

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function saveJson(data, name) {
  save(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }), `${name}.json`);
}

export function savePng(canvas, name) {
  canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
}

const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor", "dominant-baseline"];

// The SVG as text, with its style written into it, so that it looks the same without the page's style sheet.
// `pictures` are {canvas, x, y, width, height, over}: canvases under what is drawn, or over it.
export function svgText(element, pictures = []) {
  const copy = element.cloneNode(true);
  const originals = [element, ...element.querySelectorAll("*")];
  const copies = [copy, ...copy.querySelectorAll("*")];
  originals.forEach((original, place) => {
    const style = getComputedStyle(original);
    for (const name of KEPT) copies[place].setAttribute(name, style.getPropertyValue(name));
    copies[place].removeAttribute("class");
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const text = new XMLSerializer().serializeToString(copy);
  // As text, since the page's policy lets no element load a picture that isn't the server's.
  const written = (over) => pictures.filter((each) => Boolean(each.over) === over).map(({ canvas, x, y, width, height }) =>
    `<image x="${x}" y="${y}" width="${width}" height="${height}" style="image-rendering: pixelated" href="${canvas.toDataURL()}"/>`).join("");
  return text.replace(/>/, `>${written(false)}`).replace(/<\/svg>$/, `${written(true)}</svg>`);
}

export function saveSvg(element, name, pictures = []) {
  save(new Blob([svgText(element, pictures)], { type: "image/svg+xml" }), `${name}.svg`);
}

// All canvases of an element, with their captions, on one canvas, placed as they are on the page.
export function pictured(element) {
  const box = element.getBoundingClientRect();
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(box.width);
  canvas.height = Math.ceil(box.height);
  const draw = canvas.getContext("2d");
  const style = getComputedStyle(document.body);
  draw.fillStyle = style.backgroundColor;
  draw.fillRect(0, 0, canvas.width, canvas.height);
  draw.fillStyle = style.color;
  draw.font = "12px sans-serif";
  draw.imageSmoothingEnabled = false;
  for (const each of element.querySelectorAll("canvas, figcaption")) {
    const at = each.getBoundingClientRect();
    if (each.tagName === "CANVAS" && each.width && each.height) draw.drawImage(each, at.left - box.left, at.top - box.top, at.width, at.height);
    else if (each.tagName !== "CANVAS") draw.fillText(each.textContent.trim(), at.left - box.left, at.top - box.top + 13, at.width);
  }
  return canvas;
}
