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

// The SVG as text, with its style written into it, so that it looks the same without the page's style sheet. What a
// canvas `under` it shows becomes its ground.
export function svgText(element, under = null) {
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
  if (!under) return text;
  // As text, since the page's policy lets no element load a picture that isn't the server's.
  const ground = `<image width="${under.width}" height="${under.height}" style="image-rendering: pixelated" href="${under.toDataURL()}"/>`;
  return text.replace(/>/, `>${ground}`);
}

export function saveSvg(element, name, under = null) {
  save(new Blob([svgText(element, under)], { type: "image/svg+xml" }), `${name}.svg`);
}
