// The search runs in a worker, which browsers refuse to pages opened from disk. There, a hidden frame runs the worker's script.
// The theme looks for the name IFrameWorker; without this file its plugin `offline` loads one from the network.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.scope = new Promise((ready) => {
        frame.addEventListener("load", () => {
          const scope = frame.contentWindow;
          scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          scope.importScripts = async (...urls) => { for (const each of urls) await run(scope, each); };
          run(scope, url).then(() => ready(scope));
        }, { once: true });
      });
      document.body.append(frame);
    }

    async postMessage(data) {
      (await this.scope).dispatchEvent(new MessageEvent("message", { data }));
    }
  };

  function run(scope, url) {
    return new Promise((done, failed) => {
      const script = scope.document.createElement("script");
      Object.assign(script, { src: url, onload: done, onerror: failed });
      scope.document.head.append(script);
    });
  }
}
