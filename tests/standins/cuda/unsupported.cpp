// The symbols that pycuda links to and nothing here uses: each only says so. They are declared without their
// parameters, which none of them looks at, hence without the driver's header.
int standin_unsupported(const char *name);

#define UNSUPPORTED(NAME) \
    extern "C" __attribute__((visibility("default"))) int NAME() { return standin_unsupported(#NAME); }

UNSUPPORTED(cuArray3DCreate_v2) UNSUPPORTED(cuArray3DGetDescriptor_v2) UNSUPPORTED(cuArrayCreate_v2)
UNSUPPORTED(cuArrayDestroy) UNSUPPORTED(cuArrayGetDescriptor_v2) UNSUPPORTED(cuCtxAttach) UNSUPPORTED(cuCtxCreate_v2)
UNSUPPORTED(cuCtxCreate_v4) UNSUPPORTED(cuCtxDetach) UNSUPPORTED(cuCtxDisablePeerAccess)
UNSUPPORTED(cuCtxEnablePeerAccess) UNSUPPORTED(cuCtxGetApiVersion) UNSUPPORTED(cuCtxGetCacheConfig)
UNSUPPORTED(cuCtxGetLimit) UNSUPPORTED(cuCtxGetSharedMemConfig) UNSUPPORTED(cuCtxSetCacheConfig)
UNSUPPORTED(cuCtxSetLimit) UNSUPPORTED(cuCtxSetSharedMemConfig) UNSUPPORTED(cuDeviceCanAccessPeer)
UNSUPPORTED(cuDeviceGetByPCIBusId) UNSUPPORTED(cuFuncSetAttribute) UNSUPPORTED(cuFuncSetCacheConfig)
UNSUPPORTED(cuFuncSetSharedSize) UNSUPPORTED(cuIpcCloseMemHandle) UNSUPPORTED(cuIpcGetEventHandle)
UNSUPPORTED(cuIpcGetMemHandle) UNSUPPORTED(cuIpcOpenEventHandle) UNSUPPORTED(cuIpcOpenMemHandle_v2)
UNSUPPORTED(cuLaunch) UNSUPPORTED(cuLaunchGrid) UNSUPPORTED(cuLaunchGridAsync) UNSUPPORTED(cuLinkAddData_v2)
UNSUPPORTED(cuLinkAddFile_v2) UNSUPPORTED(cuLinkComplete) UNSUPPORTED(cuLinkCreate_v2) UNSUPPORTED(cuLinkDestroy)
UNSUPPORTED(cuMemAllocManaged) UNSUPPORTED(cuMemAllocPitch_v2) UNSUPPORTED(cuMemHostRegister_v2)
UNSUPPORTED(cuMemHostUnregister) UNSUPPORTED(cuMemcpy2DAsync_v2) UNSUPPORTED(cuMemcpy2DUnaligned_v2)
UNSUPPORTED(cuMemcpy2D_v2) UNSUPPORTED(cuMemcpy3DAsync_v2) UNSUPPORTED(cuMemcpy3DPeer)
UNSUPPORTED(cuMemcpy3DPeerAsync) UNSUPPORTED(cuMemcpy3D_v2) UNSUPPORTED(cuMemcpyAtoA_v2) UNSUPPORTED(cuMemcpyAtoD_v2)
UNSUPPORTED(cuMemcpyAtoH_v2) UNSUPPORTED(cuMemcpyDtoA_v2) UNSUPPORTED(cuMemcpyHtoA_v2) UNSUPPORTED(cuMemcpyPeer)
UNSUPPORTED(cuMemcpyPeerAsync) UNSUPPORTED(cuMemsetD2D16Async) UNSUPPORTED(cuMemsetD2D16_v2)
UNSUPPORTED(cuMemsetD2D32Async) UNSUPPORTED(cuMemsetD2D32_v2) UNSUPPORTED(cuMemsetD2D8Async)
UNSUPPORTED(cuMemsetD2D8_v2) UNSUPPORTED(cuModuleGetGlobal_v2) UNSUPPORTED(cuModuleGetSurfRef)
UNSUPPORTED(cuModuleGetTexRef) UNSUPPORTED(cuModuleLoad) UNSUPPORTED(cuParamSetSize) UNSUPPORTED(cuParamSetTexRef)
UNSUPPORTED(cuParamSetf) UNSUPPORTED(cuParamSeti) UNSUPPORTED(cuParamSetv) UNSUPPORTED(cuProfilerInitialize)
UNSUPPORTED(cuProfilerStart) UNSUPPORTED(cuProfilerStop) UNSUPPORTED(cuStreamAttachMemAsync)
UNSUPPORTED(cuSurfRefGetArray) UNSUPPORTED(cuSurfRefSetArray) UNSUPPORTED(cuTexRefCreate) UNSUPPORTED(cuTexRefDestroy)
UNSUPPORTED(cuTexRefGetAddressMode) UNSUPPORTED(cuTexRefGetAddress_v2) UNSUPPORTED(cuTexRefGetArray)
UNSUPPORTED(cuTexRefGetFilterMode) UNSUPPORTED(cuTexRefGetFlags) UNSUPPORTED(cuTexRefGetFormat)
UNSUPPORTED(cuTexRefSetAddress2D_v3) UNSUPPORTED(cuTexRefSetAddressMode) UNSUPPORTED(cuTexRefSetAddress_v2)
UNSUPPORTED(cuTexRefSetArray) UNSUPPORTED(cuTexRefSetFilterMode) UNSUPPORTED(cuTexRefSetFlags)
UNSUPPORTED(cuTexRefSetFormat)
