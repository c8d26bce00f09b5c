// Mouse and touch on the stage: click to play, wheel or pinch to zoom, drag to pan or to move the wipe.

const CLICK_PX = 6;

export function attachGestures(view, onClick) {
  const pointers = new Map();
  let moved = 0;
  let spread = 0;

  const place = (event, pane) => {
    const box = pane.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, box];
  };
  const distance = () => {
    const [one, two] = [...pointers.values()];
    return Math.hypot(one.x - two.x, one.y - two.y);
  };

  for (const pane of Object.values(view.panes)) {
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [x, y] = place(event, pane);
      view.setZoom(view.zoom.scale * (event.deltaY < 0 ? 1.25 : 0.8), x, y);
    }, { passive: false });

    pane.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pane.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (pointers.size === 1) moved = 0;
      if (pointers.size === 2) spread = distance();
    });

    pane.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const [x, y, box] = place(event, pane);
      const dx = event.clientX - before.x;
      const dy = event.clientY - before.y;
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      moved += Math.abs(dx) + Math.abs(dy);
      if (pointers.size === 2) {
        const now = distance();
        view.setZoom(view.zoom.scale * now / Math.max(1, spread), x, y);
        spread = now;
      } else if (view.layout === "wipe" && view.zoom.scale === 1) {
        if (moved > CLICK_PX) view.setWipe(x * 100);
      } else if (view.zoom.scale > 1) {
        view.pan(-dx / box.width, -dy / box.height);
      }
    });

    pane.addEventListener("pointerup", (event) => {
      const alone = pointers.size === 1;
      pointers.delete(event.pointerId);
      if (alone && moved <= CLICK_PX) onClick();
    });
    pane.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    pane.addEventListener("dblclick", () => view.resetZoom());
  }
}
