// The values of the charts: shown where the pointer is, and stepped through with the arrow keys. Without this script, the
// rings around the values have titles that the browser shows.
(() => {
  const NEAR = 30;

  const centre = (ring) => {
    const box = ring.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const follow = (drawing) => {
    const rings = Array.from(drawing.querySelectorAll("circle.mark"));
    if (!rings.length) return;
    const texts = rings.map((ring) => {
      const title = ring.querySelector("title");
      title.remove();
      return title.textContent;
    });
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    drawing.after(tip);
    let at = -1;

    const hide = () => {
      if (at >= 0) rings[at].classList.remove("on");
      at = -1;
      tip.hidden = true;
    };
    const show = (place) => {
      if (place === at) return;
      hide();
      at = place;
      rings[at].classList.add("on");
      tip.textContent = texts[at];
      tip.hidden = false;
      const frame = drawing.parentElement.getBoundingClientRect();
      const [x, y] = centre(rings[at]);
      const left = Math.min(Math.max(0, x - frame.left - tip.offsetWidth / 2), frame.width - tip.offsetWidth);
      const above = y - frame.top - tip.offsetHeight - 10;
      tip.style.left = `${Math.max(0, left)}px`;
      tip.style.top = `${above >= 0 ? above : y - frame.top + 12}px`;
    };
    const point = (event) => {
      let best = -1;
      let least = NEAR;
      rings.forEach((ring, place) => {
        const [x, y] = centre(ring);
        const distance = Math.hypot(x - event.clientX, y - event.clientY);
        if (distance < least) [best, least] = [place, distance];
      });
      if (best >= 0) show(best); else hide();
    };
    const step = (event) => {
      const last = rings.length - 1;
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined) return;
      event.preventDefault();
      show(Math.min(Math.max(to, 0), last));
    };
    drawing.addEventListener("pointermove", point);
    drawing.addEventListener("pointerdown", point);
    drawing.addEventListener("pointerleave", hide);
    drawing.addEventListener("keydown", step);
    drawing.addEventListener("blur", hide);
    drawing.addEventListener("scroll", hide);
  };
  document.querySelectorAll(".drawing").forEach(follow);
})();
