// Browsers start no worker of a page that is read from a folder: the search runs in a frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.ready = new Promise((loaded) => {
        this.frame.addEventListener("load", loaded, { once: true });
      });
      const setUp = (address) => {
        // What a worker has, for the script in the frame.
        window.postMessage = (data) => parent.postMessage(data, "*");
        window.importScripts = (...names) =>
          names.reduce(
            (before, name) =>
              before.then(() => new Promise((done) => {
                const script = document.createElement("script");
                script.src = new URL(name, address);
                script.addEventListener("load", done);
                document.head.appendChild(script);
              })),
            Promise.resolve(),
          );
      };
      this.frame.srcdoc =
        `<script>(${setUp})(${JSON.stringify(String(url))})</script>` +
        `<script src="${String(url)}"></script>`;
      window.addEventListener("message", (event) => {
        if (event.source !== this.frame.contentWindow) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        this.onmessage?.(message);
      });
      document.documentElement.appendChild(this.frame);
    }
    postMessage(data) {
      this.ready.then(() => {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
      });
    }
    terminate() {
      this.frame.remove();
    }
  };
}
