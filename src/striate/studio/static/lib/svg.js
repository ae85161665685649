// SVG that several views draw: paths of edges, and text that is cut where it doesn't fit.

// A path through points [x, y] with rounded corners.
export function rounded(points, radius = 8) {
  if (points.length < 2) return "";
  let path = `M${points[0][0]},${points[0][1]}`;
  for (let place = 1; place < points.length - 1; place += 1) {
    const [x, y] = points[place];
    const before = towards(points[place], points[place - 1], radius);
    const after = towards(points[place], points[place + 1], radius);
    path += `L${before[0]},${before[1]}Q${x},${y} ${after[0]},${after[1]}`;
  }
  const last = points[points.length - 1];
  return `${path}L${last[0]},${last[1]}`;
}

function towards([x, y], [toX, toY], radius) {
  const length = Math.hypot(toX - x, toY - y) || 1;
  const share = Math.min(radius, length / 2) / length;
  return [round(x + (toX - x) * share), round(y + (toY - y) * share)];
}

function round(value) {
  return Math.round(value * 10) / 10;
}

// Text of at most so many letters.
export function cut(text, letters) {
  return text.length <= letters ? text : `${text.slice(0, Math.max(1, letters - 1))}…`;
}

// 1x64x112x112, without the batch where it is one.
export function sizes(shape) {
  if (!shape.length) return "a number";
  return (shape.length > 1 && shape[0] === 1 ? shape.slice(1) : shape).join("×");
}
