// Painting over a picture, by pointer or by keyboard, in the model's own pixels.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Mask {
  constructor(view, source, brush, isPainted) {
    Object.assign(this, { view, source, brush, width: source.width, height: source.height });
    Object.assign(view, { width: this.width, height: this.height });
    this.painted = new Uint8Array(this.width * this.height);
    this.cursor = [this.width >> 1, this.height >> 1];
    this.listening = new AbortController();
    view.classList.toggle("paintable", isPainted);
    view.tabIndex = isPainted ? 0 : -1;
    view.setAttribute("role", isPainted ? "application" : "img");
    view.setAttribute("aria-label", isPainted ? "The picture of yours, to paint on" : "The picture of yours");
    if (isPainted) view.setAttribute("aria-describedby", "own-paint-hint");
    else view.removeAttribute("aria-describedby");
    if (isPainted) this.listen();
    this.draw();
  }

  listen() {
    const on = (name, react) => this.view.addEventListener(name, react, { signal: this.listening.signal });
    on("pointerdown", (event) => {
      this.view.setPointerCapture(event.pointerId);
      this.paint(...this.place(event));
    });
    on("pointermove", (event) => {
      if (!(event.buttons & 1)) return;
      for (const each of event.getCoalescedEvents?.() ?? [event]) this.paint(...this.place(each));
    });
    on("keydown", (event) => {
      const step = STEPS[event.key];
      if (event.key === " ") this.paint(...this.cursor);
      else if (step) {
        this.cursor = [
          Math.min(this.width - 1, Math.max(0, this.cursor[0] + step[0])),
          Math.min(this.height - 1, Math.max(0, this.cursor[1] + step[1])),
        ];
        this.draw();
      } else return;
      event.preventDefault();
    });
    on("focus", () => this.draw());
    on("blur", () => this.draw());
  }

  stop() {
    this.listening.abort();
  }

  place(event) {
    const box = this.view.getBoundingClientRect();
    return [
      Math.floor(((event.clientX - box.left) / box.width) * this.width),
      Math.floor(((event.clientY - box.top) / box.height) * this.height),
    ];
  }

  paint(x, y) {
    this.cursor = [x, y];
    for (const place of this.near(x, y)) this.painted[place] = 1;
    this.draw();
  }

  // Pixels under the brush.
  *near(x, y) {
    const reach = (this.brush() - 1) / 2;
    const most = reach ** 2 + reach; // round, and without a spike at each side
    for (let row = y - reach; row <= y + reach; row++) {
      for (let column = x - reach; column <= x + reach; column++) {
        const isInside = row >= 0 && row < this.height && column >= 0 && column < this.width;
        if (isInside && (row - y) ** 2 + (column - x) ** 2 <= most) yield row * this.width + column;
      }
    }
  }

  clear() {
    this.painted.fill(0);
    this.draw();
  }

  isEmpty() {
    return !this.painted.includes(1);
  }

  draw() {
    const pen = this.view.getContext("2d", { willReadFrequently: true });
    pen.drawImage(this.source, 0, 0);
    const pixels = pen.getImageData(0, 0, this.width, this.height);
    const tint = (place, colour, share) =>
      colour.forEach((value, channel) => {
        const at = 4 * place + channel;
        pixels.data[at] = Math.round((1 - share) * pixels.data[at] + share * value);
      });
    this.painted.forEach((isPainted, place) => isPainted && tint(place, [232, 120, 60], 0.75));
    if (document.activeElement === this.view) for (const place of this.near(...this.cursor)) tint(place, [80, 190, 210], 0.6);
    pen.putImageData(pixels, 0, 0);
  }

  // As the API wants it: transparent where the picture is made anew.
  canvas() {
    const made = Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
    const pen = made.getContext("2d");
    const pixels = pen.createImageData(this.width, this.height);
    this.painted.forEach((isPainted, place) => (pixels.data[4 * place + 3] = isPainted ? 0 : 255));
    pen.putImageData(pixels, 0, 0);
    return made;
  }
}
