// Tags and notes of segments that have no answer yet: kept in this browser until the answer takes them along.

export class Drafts {
  constructor(annotator, store = window.localStorage) {
    this.prefix = `densedpo/draft/${encodeURIComponent(annotator)}/`;
    this.store = store;
  }

  /** Drafts of a task as a list of answers. */
  of(taskId) {
    try { return JSON.parse(this.store.getItem(this.prefix + taskId)) ?? []; } catch { return []; }
  }

  /** Keep what of `values` has a tag or a note but no answer; forget the others. */
  keep(taskId, values) {
    const changed = new Set(values.map((value) => value.segment));
    const kept = this.of(taskId).filter((value) => !changed.has(value.segment));
    kept.push(...values.filter((value) => value.answer === null && (value.tags.length || value.note)));
    try {
      if (kept.length) this.store.setItem(this.prefix + taskId, JSON.stringify(kept));
      else this.store.removeItem(this.prefix + taskId);
    } catch { /* without storage a draft lives as long as the page */ }
  }
}
