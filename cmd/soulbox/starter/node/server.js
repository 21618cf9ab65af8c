// A web server that says hello.
const http = require("node:http");

http
  .createServer((request, response) => response.end("hello from Node.js\n"))
  .listen(8000, "0.0.0.0");
